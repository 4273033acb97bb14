"""Defer: a small network that takes over for the inputs of edits."""

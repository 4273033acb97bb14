"""Edits, the files and rows that they are read from, and relation templates."""

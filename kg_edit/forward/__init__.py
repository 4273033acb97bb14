"""Asking what a change does: the plain way, and the fast ones that run only what it can reach."""

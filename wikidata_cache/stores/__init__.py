"""Stores on disk: made from dumps, graph files and CoDEx folders, checked when opened, and served as an endpoint."""

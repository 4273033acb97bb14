"""Stores on disk: made from dumps, graph files and CoDEx folders, served as an endpoint."""

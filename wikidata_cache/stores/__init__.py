"""Stores on disk: load dumps, graph files and CoDEx folders into a store, and check a store when it is opened."""

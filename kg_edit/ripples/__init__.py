"""Benchmarks of what follows from an edit, made from a graph for one model: it is asked only what it can answer."""

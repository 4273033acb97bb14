"""Subgraphs around edits: options, ends of edits, sampling, expansion, assembly, and the graph class."""

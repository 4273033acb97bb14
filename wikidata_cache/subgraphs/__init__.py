"""Build subgraphs around edits: options, resolving of ids, sampling, expansion, assembly, and the graph class."""

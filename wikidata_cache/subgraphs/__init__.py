"""From what a source says to the subgraph of an edit: ends, expansion, sampling, assembly."""

"""MEMIT-KG: MEMIT, and the facts of the edit's subgraph in the same batch."""

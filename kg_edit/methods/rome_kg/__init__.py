"""ROME-KG: ROME, and the facts of the edit's subgraph as further edits."""

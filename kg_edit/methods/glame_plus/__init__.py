"""GLAME with the composed facts of the subgraph as further targets."""

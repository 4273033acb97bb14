"""GLAME with an R-GNN that is trained once, over many edits."""

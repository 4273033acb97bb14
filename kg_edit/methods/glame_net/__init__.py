"""glame-net: GLAME with an R-GNN that is trained once, on many edits."""

METHODS = {"glame-net": "method:GlameNet"}

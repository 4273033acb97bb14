"""GLAME, its ablations, and the baselines that write the subgraph's facts as edits of their own."""

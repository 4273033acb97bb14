"""GLAME, its ablations, and the baselines ROME-KG and MEMIT-KG, which make the subgraph's facts as further edits."""

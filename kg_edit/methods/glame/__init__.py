"""GLAME, its ablations, and GLAME in batches."""

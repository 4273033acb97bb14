"""Pictures of subgraphs: a page to explore, and a still image."""

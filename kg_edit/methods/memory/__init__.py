"""Memory: a memory network beside one feed-forward network."""

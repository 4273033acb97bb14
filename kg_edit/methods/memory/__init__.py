"""Memory: a memory network beside one feed-forward network."""

METHODS = {"memory": "method:Memory"}

"""Store files: atomic replacement, tensors, JSON lines, run folders."""

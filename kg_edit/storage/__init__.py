"""Files: replaced atomically, tensors, JSON lines, one run a folder."""

"""Knowledge graphs around an edit: where subgraphs come from, as tensors, in words, and wrong graphs as controls."""

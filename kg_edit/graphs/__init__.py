"""Knowledge graphs around an edit: as tensors, in words, and wrong ones for control."""

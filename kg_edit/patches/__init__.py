"""The kinds of patches, their files, and many of them in one forward pass."""

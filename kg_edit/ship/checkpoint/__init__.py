"""Checkpoints on disk, without a model in memory: merge a patch into one, or extract the patch between two."""

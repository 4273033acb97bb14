"""Measuring second moments: one pass for all layers, resumable, in shards, kept by content."""

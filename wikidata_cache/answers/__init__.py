"""The cache file: answers of endpoints, kept for ever, shared as snapshots."""

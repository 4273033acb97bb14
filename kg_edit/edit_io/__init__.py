"""Edits from files: JSONL, JSON, CSV, TSV, triplets."""

"""Estimate what an edit costs before anything is loaded: memory from the model's shape, time from a benchmark."""

"""MEMOIR: a residual memory whose columns a sparse mask chooses."""

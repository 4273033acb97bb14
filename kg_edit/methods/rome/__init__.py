"""ROME and R-ROME: one key, one value, one weight."""

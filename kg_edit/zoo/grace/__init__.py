"""GRACE: a codebook of keys and values at one layer."""

METHODS = {"grace": "method:Grace"}

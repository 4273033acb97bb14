"""Memory: a memory network in the place of one down-projection."""

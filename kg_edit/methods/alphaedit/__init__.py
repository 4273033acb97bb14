"""AlphaEdit: MEMIT with updates in the null space of other knowledge."""

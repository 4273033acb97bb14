"""How a value is written: one key by a rank-one update (GLAME Eq. 8), many by a joint least-squares solve."""

"""Closed forms that write values into a weight: a rank-one update for one key (GLAME Eq. 8), least squares for many."""

"""EMMET: ROME's equality constraint for a whole batch."""

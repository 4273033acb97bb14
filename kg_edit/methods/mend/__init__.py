"""MEND: a network that turns a gradient into an edit, and its training."""

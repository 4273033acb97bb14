"""T-Patcher: one neuron for each edit, in the last feed-forward network."""

METHODS = {"t-patcher": "method:TPatcher"}

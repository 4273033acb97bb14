"""T-Patcher: one neuron for each wrong token of an edit's target, in the last feed-forward network."""

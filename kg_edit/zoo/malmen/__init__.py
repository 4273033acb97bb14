"""MALMEN: a network turns the gradients of many edits into one update, by least squares; with its training."""

"""MEND: a network turns an edit's gradient into an update; with its training."""

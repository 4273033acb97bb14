"""KN: the neurons of an answer, found by integrated gradients, and their columns changed."""

"""Shared code of methods that train a network: the network's file, its training, and the order of the examples."""

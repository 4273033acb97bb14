"""Tuning weights by gradients, without touching the model."""

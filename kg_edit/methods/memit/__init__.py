"""MEMIT: many facts at once, spread over several layers by least squares."""

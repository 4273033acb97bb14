"""Make benchmarks of what follows from an edit, from a graph and for one model: it is only asked what it can answer."""

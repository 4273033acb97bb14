"""Find where a model stores a fact (causal tracing), and choose the layer to edit (a sweep)."""

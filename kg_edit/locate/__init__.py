"""Where a model keeps a fact (causal tracing), and which layer to edit (a sweep)."""

"""A causal language model: its blocks, its prompts, hooks, sampled text, forward passes that reuse a prefix."""

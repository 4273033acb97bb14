"""Load a causal language model, encode prompts, hook into its forward passes, and sample text from it."""

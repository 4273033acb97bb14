"""What a model says of a prompt: likelihood, generated text, perplexity, answers to questions."""

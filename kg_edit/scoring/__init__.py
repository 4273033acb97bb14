"""Score and query a model: likelihood of candidates, generated text, perplexity, and answers to questions."""

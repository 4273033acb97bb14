"""Fine-tuning of one weight, with and without a constraint."""

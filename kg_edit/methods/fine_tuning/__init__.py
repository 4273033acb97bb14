"""Fine-tuning of chosen weights, with and without constraints, and LoRA."""

"""Fine-tuning methods: of one weight with and without constraints, of all weights, and of low-rank adapters (LoRA)."""

"""MELO: a codebook chooses a block of a LoRA for each prompt."""

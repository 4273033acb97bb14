"""Editors that fine-tune: all weights, with other losses, and low-rank adapters (LoRA)."""

"""Patches for other programs: PEFT adapters, and whole models with the change in their weights."""

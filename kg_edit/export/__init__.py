"""Patches for other programs: PEFT adapters, and whole models with the change in them, in files or in memory."""

"""Patches for other programs: adapters and edited models for PEFT, transformers and llama.cpp, and the way to a hub."""

"""Export of patches to other programs: adapters and edited models for PEFT, transformers and llama.cpp; hub upload."""

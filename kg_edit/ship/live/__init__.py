"""Patches in servers that run: `servers` speaks to vLLM, SGLang, `kg-edit serve` and llama.cpp, `push` uses them."""

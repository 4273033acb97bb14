"""MeLLo: edits in a memory, questions answered step by step."""

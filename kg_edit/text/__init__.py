"""Comparing texts: answers with targets, and prompts with prompts."""

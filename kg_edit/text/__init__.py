"""Texts: answers compared with targets and prompts with prompts, tables, and text made safe to show."""

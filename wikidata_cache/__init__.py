"""Wikidata to subgraphs, online or offline; usable without kg_edit, imports no torch."""

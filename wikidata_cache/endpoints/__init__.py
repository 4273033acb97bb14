"""SPARQL endpoints over HTTP: asked politely, and clear about how they failed."""

"""SPARQL endpoints as sources: one request, its failures, retries at the host's rate, and chains of endpoints."""

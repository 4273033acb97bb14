"""SPARQL endpoints as sources: requests, failures, retries, rate limits per host, and chains of endpoints."""

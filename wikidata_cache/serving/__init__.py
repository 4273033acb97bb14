"""A SPARQL endpoint over a store: an HTTP server that answers this machine alone, and processes that run queries."""

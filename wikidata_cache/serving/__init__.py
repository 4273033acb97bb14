"""A SPARQL endpoint over a store: an HTTP server for this machine only, and processes that run the queries."""

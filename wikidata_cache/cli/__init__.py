"""`wikidata-cache`: the command line."""

from wikidata_cache.cli.app import app, main

__all__ = ["app", "main"]

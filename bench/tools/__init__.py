"""What the measurements of wikidata_cache share: a real graph, real edits, a loopback server, and a plain way."""

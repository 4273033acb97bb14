"""What kg_edit and wikidata_cache share: files, rows, JSON, progress and the terminal. It imports neither of them."""

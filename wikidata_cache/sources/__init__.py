"""Where statements and labels come from: graph files, stores on disk and (`wikidata_cache.endpoints`) endpoints."""

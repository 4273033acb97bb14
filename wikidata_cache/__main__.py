"""`python -m wikidata_cache`: the same as the command `wikidata-cache`."""

from wikidata_cache.cli import main

if __name__ == "__main__":
    main()

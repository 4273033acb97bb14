"""Wikidata to subgraphs, online or offline; usable without kg_edit, imports no torch.

    from wikidata_cache import WikidataCache, packaged_extract

    cache = WikidataCache(packaged_extract())
    graph = cache.subgraph(edit)  # a labelled networkx.MultiDiGraph around the edit's new fact

`draw.draw(graph, "edit.svg")` pictures it; `errors.WikidataCacheError` is the base of all errors.
"""

from wikidata_cache.cache import Root, WikidataCache, fetch_subgraphs
from wikidata_cache.errors import WikidataCacheError
from wikidata_cache.extract import packaged_extract
from wikidata_cache.sources.opening import SourceSpec, open_source
from wikidata_cache.sources.source import Source, SparqlSource
from wikidata_cache.subgraphs.assemble import content_hash
from wikidata_cache.subgraphs.ends import UNKNOWN_SUBJECT, EditLike

__all__ = [
    "UNKNOWN_SUBJECT",
    "EditLike",
    "Root",
    "Source",
    "SourceSpec",
    "SparqlSource",
    "WikidataCache",
    "WikidataCacheError",
    "content_hash",
    "fetch_subgraphs",
    "open_source",
    "packaged_extract",
]

"""Wikidata to subgraphs, online or offline; usable without kg_edit, imports no torch.

    from wikidata_cache import WikidataCache, packaged_extract

    cache = WikidataCache(packaged_extract())
    graph = cache.subgraph(edit)  # a labelled networkx.MultiDiGraph around the edit's new fact
    graph.to_html("edit.html")

`Subgraph` says how a graph shows and exports itself; `errors.WikidataCacheError` is the base of all errors.
"""

from wikidata_cache.cache import WikidataCache
from wikidata_cache.errors import WikidataCacheError
from wikidata_cache.extract import packaged_extract
from wikidata_cache.open_source import SourceSpec, open_source
from wikidata_cache.sources.source import Source, SparqlSource
from wikidata_cache.subgraphs.build import content_hash
from wikidata_cache.subgraphs.edit_ends import UNKNOWN_SUBJECT, EditLike
from wikidata_cache.subgraphs.options import Direction, Leakage, Root, Statements
from wikidata_cache.subgraphs.sampling import Policy
from wikidata_cache.subgraphs.subgraph import Subgraph

__all__ = [
    "UNKNOWN_SUBJECT",
    "Direction",
    "EditLike",
    "Leakage",
    "Policy",
    "Root",
    "Source",
    "SourceSpec",
    "SparqlSource",
    "Statements",
    "Subgraph",
    "WikidataCache",
    "WikidataCacheError",
    "content_hash",
    "open_source",
    "packaged_extract",
]

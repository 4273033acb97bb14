"""Build subgraphs of Wikidata around edits, online or offline. The package needs neither kg_edit nor torch.

    from wikidata_cache import WikidataCache, packaged_extract

    cache = WikidataCache(packaged_extract())
    graph = cache.subgraph(edit)  # a labelled networkx.MultiDiGraph around the edit's new fact
    graph.to_html("edit.html")

`Subgraph` has the methods that display and export a graph. All errors derive from `errors.WikidataCacheError`.
"""

from typing import TYPE_CHECKING

from kg_common import lazy_names

if TYPE_CHECKING:
    from wikidata_cache.cache import WikidataCache
    from wikidata_cache.errors import WikidataCacheError
    from wikidata_cache.extract import packaged_extract
    from wikidata_cache.source_spec import SourceSpec, open_source
    from wikidata_cache.sources.source import Source, SparqlSource
    from wikidata_cache.subgraphs.build import content_hash
    from wikidata_cache.subgraphs.edit_ends import UNKNOWN_SUBJECT, EditLike
    from wikidata_cache.subgraphs.options import Direction, Leakage, Root, Statements, SubgraphOptions
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
    "SubgraphOptions",
    "WikidataCache",
    "WikidataCacheError",
    "content_hash",
    "open_source",
    "packaged_extract",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "wikidata_cache.cache": ["WikidataCache"],
        "wikidata_cache.errors": ["WikidataCacheError"],
        "wikidata_cache.extract": ["packaged_extract"],
        "wikidata_cache.source_spec": ["SourceSpec", "open_source"],
        "wikidata_cache.sources.source": ["Source", "SparqlSource"],
        "wikidata_cache.subgraphs.build": ["content_hash"],
        "wikidata_cache.subgraphs.edit_ends": ["UNKNOWN_SUBJECT", "EditLike"],
        "wikidata_cache.subgraphs.options": ["Direction", "Leakage", "Root", "Statements", "SubgraphOptions"],
        "wikidata_cache.subgraphs.sampling": ["Policy"],
        "wikidata_cache.subgraphs.subgraph": ["Subgraph"],
    },
)

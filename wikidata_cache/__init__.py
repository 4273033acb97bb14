"""Build subgraphs of Wikidata around edits, online or offline. The package needs neither kg_edit nor torch.

    from wikidata_cache import WikidataCache, packaged_extract

    cache = WikidataCache(packaged_extract())
    graph = cache.subgraph(edit)  # a labelled networkx.MultiDiGraph around the edit's new fact
    graph.to_html("edit.html")

`Subgraph` has the methods that display and export a graph. All errors derive from `errors.WikidataCacheError`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

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

_HOMES = {
    "WikidataCache": "wikidata_cache.cache",
    "WikidataCacheError": "wikidata_cache.errors",
    "packaged_extract": "wikidata_cache.extract",
    "SourceSpec": "wikidata_cache.source_spec",
    "open_source": "wikidata_cache.source_spec",
    "Source": "wikidata_cache.sources.source",
    "SparqlSource": "wikidata_cache.sources.source",
    "content_hash": "wikidata_cache.subgraphs.build",
    "UNKNOWN_SUBJECT": "wikidata_cache.subgraphs.edit_ends",
    "EditLike": "wikidata_cache.subgraphs.edit_ends",
    "Direction": "wikidata_cache.subgraphs.options",
    "Leakage": "wikidata_cache.subgraphs.options",
    "Root": "wikidata_cache.subgraphs.options",
    "Statements": "wikidata_cache.subgraphs.options",
    "SubgraphOptions": "wikidata_cache.subgraphs.options",
    "Policy": "wikidata_cache.subgraphs.sampling",
    "Subgraph": "wikidata_cache.subgraphs.subgraph",
}

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


def __getattr__(name: str) -> object:
    """Import a name of `__all__` at its first use, so that `import wikidata_cache` alone stays fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'wikidata_cache' has no attribute {name!r}; it has: {', '.join(__all__)}")
    found: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the names of the module, including those of `__all__` that are not imported yet."""
    return sorted({*globals(), *__all__})

"""A label index for a graph: the one beside a store, or one made on the fly from the graph's own names."""

import logging
from collections.abc import Iterator

from wikidata_cache.answers.over_graph import CacheOverGraph
from wikidata_cache.ids import DIRECT, RDFS_LABEL, is_entity, local_id
from wikidata_cache.labels.label_index import LabelEntry, LabelIndex, NameKind
from wikidata_cache.sources.oxigraph import OxigraphSource
from wikidata_cache.sources.source import Source

logger = logging.getLogger(__name__)

_ALIAS = "http://www.w3.org/2004/02/skos/core#altLabel"
_KINDS: tuple[tuple[NameKind, str], ...] = (("label", RDFS_LABEL), ("alias", _ALIAS))
_NAMES = "SELECT ?e ?l (LANG(?l) AS ?lang) WHERE {{ ?e <{predicate}> ?l . FILTER(isLiteral(?l)) }}"
_NUMBERS = (
    f"SELECT ?s (COUNT(*) AS ?n) WHERE {{ ?s ?p ?o . FILTER(isIRI(?o)) "
    f'FILTER(STRSTARTS(STR(?p), "{DIRECT}P")) }} GROUP BY ?s'
)


def open_index(source: Source) -> LabelIndex | None:
    """The index beside a store, else one of a local graph's own names; None for endpoints and their caches.

    Of a cache over a local graph it is the graph's. Raises LabelIndexError for an index that cannot be read.
    """
    source = source.graph if isinstance(source, CacheOverGraph) else source
    if not isinstance(source, OxigraphSource):
        return None
    return LabelIndex(source.label_file) if source.label_file else index_of(source)


def index_of(source: Source) -> LabelIndex:
    """An index in memory of all labels and aliases of an embedded graph, in every language.

    About ten seconds for half a million names; `wikidata-cache load` keeps such an index on disk.
    """
    logger.debug("Making a label index of %s", source.name)
    return LabelIndex.in_memory(_names(source), weights=_numbers(source))


def _names(source: Source) -> Iterator[LabelEntry]:
    for kind, predicate in _KINDS:
        for row in source.select(_NAMES.format(predicate=predicate)):
            if is_entity(entity := local_id(row["e"])):
                yield LabelEntry(entity, row["l"], row.get("lang", ""), kind)


def _numbers(source: Source) -> Iterator[tuple[str, int]]:
    for row in source.select(_NUMBERS):
        yield local_id(row["s"]), int(row["n"])

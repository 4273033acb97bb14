"""Fetch the subgraphs of a file of edits in as few requests as possible, and write them as JSON lines."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import networkx as nx

from kg_common.atomic import gzipped, write_atomically
from kg_common.ids import is_entity
from wikidata_cache.answers.cached_source import CachedSource, RequestCounts
from wikidata_cache.cache import WikidataCache
from wikidata_cache.edits import EditRow
from wikidata_cache.errors import CacheMissError, EditRowError, WikidataCacheError
from wikidata_cache.labels.label_index import normalise
from wikidata_cache.subgraphs.edit_ends import resolve_ends
from wikidata_cache.subgraphs.options import DEFAULTS, SubgraphOptions
from wikidata_cache.subgraphs.subgraph import Subgraph

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    """The edits that have a subgraph, their subgraphs in the same order, and the errors of the rows that were skipped.

    `contradictions` has one text for each row whose labels differ from the labels of its ids in the graph.
    `request_counts` has the numbers of ids found in the cache and requested from the endpoint.
    """

    edits: Sequence[EditRow]
    graphs: Sequence[Subgraph]
    skipped: Sequence[EditRowError]
    contradictions: Sequence[str]
    request_counts: RequestCounts

    @property
    def digest(self) -> str:
        """The sha256 (hex) over the content hashes of all subgraphs. Equal subgraphs give equal digests."""
        hashes = [str(graph.graph["content_hash"]) for graph in self.graphs]
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def fetch_edits(
    cache: WikidataCache,
    edits: Sequence[EditRow],
    *,
    path: Path,
    options: SubgraphOptions = DEFAULTS,
    keep_going: bool = False,
) -> Fetched:
    """Fetch the subgraphs of all edits of a file; each hop sends shared requests for all edits.

    A warning is logged where a label in a row differs from the label of its id in the graph.

    Args:
        cache: over the endpoint, or over the cache file alone.
        edits: the rows of the file.
        path: the file, for error messages.
        options: the options of all subgraphs.
        keep_going: skip rows whose ids are malformed or whose new object cannot be resolved in the graph.

    Returns:
        The subgraphs, and what was skipped.
    """
    try:
        return _fetch_together(cache, edits, path, options, keep_going)
    except CacheMissError as error:
        # The rows share their requests, so the error names no row.
        row = _find_missing_row(cache, edits, options)
        if row is None:
            raise
        raise error.for_row(f"{path}, row {row}") from error


def _find_missing_row(cache: WikidataCache, edits: Sequence[EditRow], options: SubgraphOptions) -> int | None:
    """Return the number of the first row for which the cache lacks something; each row is tried alone."""
    for edit in edits:
        try:
            cache.subgraph(edit, options)
        except CacheMissError:
            return edit.row
        except WikidataCacheError:
            continue  # this row has another problem
    return None


def _fetch_together(
    cache: WikidataCache, edits: Sequence[EditRow], path: Path, options: SubgraphOptions, keep_going: bool
) -> Fetched:
    """Do the work of `fetch_edits`, with shared requests; a CacheMissError names no row."""
    resolved = resolve_ends(edits, cache.facts)  # by position in `edits`, from 0
    good = [edits[position] for position in resolved.ends]
    skipped = []
    for position, error in sorted(resolved.errors.items()):
        edit = edits[position]
        problem = str(cache.with_sorted_candidates(edit, error))
        skipped.append(EditRowError(path, problem, row=edit.row))
    if skipped and not keep_going:
        _refuse_rows(path, skipped, advice="--keep-going skips them")
    if skipped and not good:
        _refuse_rows(path, skipped, advice="no row is left")
    for fault in skipped:
        logger.warning("skipped: %s", fault)
    graphs = cache.subgraphs(good, options)
    contradictions = _check_labels(cache, good, graphs)
    request_counts = RequestCounts()
    if isinstance(cache.source, CachedSource):
        request_counts = cache.source.request_counts
    return Fetched(good, graphs, skipped, contradictions, request_counts)


def _refuse_rows(path: Path, errors: Sequence[EditRowError], *, advice: str) -> NoReturn:
    """Raise the first of the errors; if there are several, with their number and the advice."""
    problem = errors[0].problem
    if len(errors) > 1:
        problem += f" ({len(errors)} rows have such errors; {advice})"
    raise EditRowError(path, problem, row=errors[0].row)


def _check_labels(cache: WikidataCache, edits: Sequence[EditRow], graphs: Sequence[Subgraph]) -> list[str]:
    """Return a text for each row whose labels differ from those of its ids in the graph, and log it as a warning."""
    contradictions = []
    for edit, graph in zip(edits, graphs, strict=True):
        faults = _find_contradictions(edit, cache, graph)
        if faults:
            contradiction = f"row {edit.row}: {'; '.join(faults)}; check the id or use `link`"
            logger.warning("%s", contradiction)
            contradictions.append(contradiction)
    return contradictions


def _find_contradictions(edit: EditRow, cache: WikidataCache, graph: Subgraph) -> list[str]:
    """Describe the ids of an edit that have another name in the graph than in the row; case and accents don't count."""
    faults = []
    for field in ("subject", "relation", "target_true", "target_new"):
        text = getattr(edit, field)
        entity = getattr(edit, f"{field}_id")
        if not entity or not text or is_entity(text):
            continue
        # A merged item has the label of the item that replaces it. The graph may lack a label.
        item = graph.graph["redirects"].get(entity, entity)
        names = cache.facts.names(item)
        if names and normalise(text) not in map(normalise, names):
            label = cache.facts.label(item)
            faults.append(f"{field}_id {entity} is {label!r} in the graph, but {text!r} in the row")
    return faults


def write_subgraphs(path: Path, fetched: Fetched) -> None:
    """Write one subgraph per line as node-link JSON, with its edit; gzip the file if its name ends in .gz.

    Equal subgraphs give equal bytes. The file is written atomically.
    """
    lines = []
    for edit, graph in zip(fetched.edits, fetched.graphs, strict=True):
        node_link = nx.node_link_data(graph, edges="edges")
        node_link["graph"] = {**graph.graph, "edit": vars(edit)}
        lines.append(json.dumps(node_link, sort_keys=True) + "\n")
    content = "".join(lines).encode()
    if path.name.endswith(".gz"):
        content = gzipped(content)
    write_atomically(path, content)

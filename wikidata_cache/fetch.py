"""All subgraphs of a file of edits, with as few requests as possible, and what that came to."""

import gzip
import hashlib
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wikidata_cache.answers.asking import Tally
from wikidata_cache.answers.cached_source import CachedSource
from wikidata_cache.cache import WikidataCache
from wikidata_cache.edits import EditRow
from wikidata_cache.errors import (
    AmbiguousLabelError,
    BadOptionError,
    EditRowError,
    EntityNotInGraphError,
    UnknownLabelError,
)
from wikidata_cache.files import write_atomically
from wikidata_cache.plan import Direction, Statements
from wikidata_cache.subgraphs.resolve import find_ends
from wikidata_cache.subgraphs.sample import Policy
from wikidata_cache.subgraphs.subgraph import Subgraph

logger = logging.getLogger(__name__)

_FAULTS = (AmbiguousLabelError, BadOptionError, EntityNotInGraphError, UnknownLabelError)


@dataclass(frozen=True)
class Fetched:
    """The edits that have a subgraph, their subgraphs in the same order, and the rows that were skipped."""

    edits: Sequence[EditRow]
    graphs: Sequence[Subgraph]
    skipped: Sequence[EditRowError]
    tally: Tally

    @property
    def digest(self) -> str:
        """The sha256 over the content hashes of all subgraphs: equal for equal subgraphs, wherever they came from."""
        return hashlib.sha256("\n".join(str(graph.graph["content_hash"]) for graph in self.graphs).encode()).hexdigest()


def fetch_edits(
    cache: WikidataCache,
    edits: Sequence[EditRow],
    *,
    path: Path,
    hops: int = 2,
    per_node: int = 20,
    seed: int = 0,
    policy: Policy = "uniform",
    direction: Direction = "out",
    statements: Statements = "truthy",
    keep_going: bool = False,
) -> Fetched:
    """The subgraphs of all edits of the file `path`, fetched hop by hop in batches over all of them.

    Raises EditRowError for an edit whose new object the graph does not know; with `keep_going` such rows are
    skipped instead, unless there is nothing else. Raises what `WikidataCache.subgraphs` raises.
    """
    good, skipped = _sorted_out(cache, edits, path)
    if skipped and not (keep_going and good):
        more = f" ({len(skipped) - 1} more rows like it; --keep-going skips them)" if len(skipped) > 1 else ""
        raise EditRowError(path, f"{skipped[0].problem}{more}", row=skipped[0].row)
    for fault in skipped:
        logger.warning("skipped: %s", fault)
    graphs = cache.subgraphs(
        good,
        hops=hops,
        per_node=per_node,
        seed=seed,
        policy=policy,
        direction=direction,
        statements=statements,
    )
    tally = cache.source.tally if isinstance(cache.source, CachedSource) else Tally()
    return Fetched(good, graphs, skipped, tally)


def write_subgraphs(path: Path, fetched: Fetched) -> None:
    """One subgraph a line as node-link JSON, with its row and its edit; gzipped where the name ends in .gz.

    Equal subgraphs give equal bytes. The file appears whole or not at all. Raises OSError.
    """
    text = "".join(_line(edit, graph) for edit, graph in zip(fetched.edits, fetched.graphs, strict=True))
    content = text.encode()
    if path.name.endswith(".gz"):
        buffer = io.BytesIO()
        with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as file:
            file.write(content)
        content = buffer.getvalue()
    write_atomically(path, content)


def _sorted_out(cache: WikidataCache, edits: Sequence[EditRow], path: Path) -> tuple[list[EditRow], list[EditRowError]]:
    """The edits whose ends the graph knows, and why the others are none."""
    try:
        find_ends(edits, cache.facts)  # one batch of requests for all of them
    except _FAULTS:
        faults = {edit.row: fault for edit in edits if (fault := _fault(cache, edit, path))}
        return [edit for edit in edits if edit.row not in faults], list(faults.values())
    return list(edits), []


def _fault(cache: WikidataCache, edit: EditRow, path: Path) -> EditRowError | None:
    try:
        find_ends([edit], cache.facts)
    except _FAULTS as error:
        return EditRowError(path, str(error), row=edit.row)
    return None


def _line(edit: EditRow, graph: Subgraph) -> str:
    data = {
        "directed": True,
        "multigraph": True,
        "graph": {**graph.graph, "edit": vars(edit)},
        "nodes": [{"id": node, **values} for node, values in graph.nodes(data=True)],
        "edges": [
            {"source": start, "target": end, "key": key, **values}
            for start, end, key, values in graph.edges(keys=True, data=True)
        ],
    }
    return json.dumps(data, sort_keys=True) + "\n"

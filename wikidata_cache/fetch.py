"""All subgraphs of a file of edits, with as few requests as possible, and what that came to."""

import gzip
import hashlib
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wikidata_cache.answers.cached_source import CachedSource, RequestCounts
from wikidata_cache.atomic import write_atomically
from wikidata_cache.cache import WikidataCache
from wikidata_cache.edits import EditRow
from wikidata_cache.errors import EditRowError, WikidataCacheError
from wikidata_cache.linking.edit_file import contradiction
from wikidata_cache.subgraphs.edit_ends import Ends, try_ends
from wikidata_cache.subgraphs.options import Direction, Root, Statements
from wikidata_cache.subgraphs.sampling import Policy
from wikidata_cache.subgraphs.subgraph import Subgraph

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    """The edits that have a subgraph, their subgraphs in the same order, and the rows that were skipped.

    `contradictions` are one text a row whose ids are called otherwise in the graph than in the row.
    """

    edits: Sequence[EditRow]
    graphs: Sequence[Subgraph]
    skipped: Sequence[EditRowError]
    contradictions: Sequence[str]
    tally: RequestCounts

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
    roots: Sequence[Root] = ("target_new",),
    policy: Policy = "uniform",
    direction: Direction = "out",
    statements: Statements = "truthy",
    keep_going: bool = False,
) -> Fetched:
    """The subgraphs of all edits of the file `path`, fetched hop by hop in batches over all of them.

    An id that the graph calls otherwise than its row does is warned of. Raises EditRowError for an edit whose
    new object the graph does not know; with `keep_going` such rows are skipped instead, unless there is nothing
    else. Raises what `WikidataCache.subgraphs` raises.
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
        roots=roots,
        policy=policy,
        direction=direction,
        statements=statements,
    )
    tally = cache.source.tally if isinstance(cache.source, CachedSource) else RequestCounts()
    return Fetched(good, graphs, skipped, _contradictions(cache, good, graphs), tally)


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


def _contradictions(cache: WikidataCache, edits: Sequence[EditRow], graphs: Sequence[Subgraph]) -> list[str]:
    """What the graph calls otherwise than the rows do; each is logged, too."""
    pairs = zip(edits, graphs, strict=True)
    each = (contradiction(edit, cache.facts.label, redirects=graph.graph["redirects"]) for edit, graph in pairs)
    found = [said for said in each if said]
    for said in found:
        logger.warning("%s", said)
    return found


def _sorted_out(cache: WikidataCache, edits: Sequence[EditRow], path: Path) -> tuple[list[EditRow], list[EditRowError]]:
    """The edits whose ends the graph knows, and why the others are none."""
    ends = try_ends(edits, cache.facts)
    pairs = list(zip(edits, ends, strict=True))
    faults = [EditRowError(path, str(end), row=edit.row) for edit, end in pairs if isinstance(end, WikidataCacheError)]
    return [edit for edit, end in pairs if isinstance(end, Ends)], faults


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

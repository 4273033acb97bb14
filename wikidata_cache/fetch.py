"""Fetch the subgraphs of a file of edits in as few requests as possible, and write them as JSON lines."""

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
from wikidata_cache.subgraphs.edit_ends import EditEnds, try_ends
from wikidata_cache.subgraphs.options import DEFAULTS, SubgraphOptions
from wikidata_cache.subgraphs.subgraph import Subgraph

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    """The edits that have a subgraph, their subgraphs in the same order, and the errors of the rows that were skipped.

    `contradictions` has one text for each row whose labels differ from the labels of its ids in the graph.
    `request_counts` has the numbers of ids found in the cache and asked of the endpoint.
    """

    edits: Sequence[EditRow]
    graphs: Sequence[Subgraph]
    skipped: Sequence[EditRowError]
    contradictions: Sequence[str]
    request_counts: RequestCounts

    @property
    def digest(self) -> str:
        """The sha256 (hex) over the content hashes of all subgraphs. Equal subgraphs give equal digests."""
        return hashlib.sha256("\n".join(str(graph.graph["content_hash"]) for graph in self.graphs).encode()).hexdigest()


def fetch_edits(
    cache: WikidataCache,
    edits: Sequence[EditRow],
    *,
    path: Path,
    options: SubgraphOptions = DEFAULTS,
    keep_going: bool = False,
) -> Fetched:
    """Fetch the subgraphs of all edits of the file `path`; each hop sends shared requests for all edits.

    Logs a warning where a label in a row differs from the label of its id in the graph. Raises EditRowError for an edit
    whose ids are malformed or whose new object cannot be resolved in the graph. With `keep_going` such rows are
    skipped, and the error is raised only if no row is left. Raises the errors of `WikidataCache.subgraphs`.
    """
    good, skipped = _by_ends(cache, edits, path)
    if skipped and not (keep_going and good):
        more = f" ({len(skipped)} rows have such errors; --keep-going skips them)" if len(skipped) > 1 else ""
        raise EditRowError(path, f"{skipped[0].problem}{more}", row=skipped[0].row)
    for fault in skipped:
        logger.warning("skipped: %s", fault)
    graphs = cache.subgraphs(good, options)
    request_counts = cache.source.request_counts if isinstance(cache.source, CachedSource) else RequestCounts()
    return Fetched(good, graphs, skipped, _contradictions(cache, good, graphs), request_counts)


def write_subgraphs(path: Path, fetched: Fetched) -> None:
    """Write one subgraph per line as node-link JSON, with its edit; gzip the file if its name ends in .gz.

    Equal subgraphs give equal bytes. The file is written atomically. Raises OSError.
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
    """Return the contradictions between labels in the rows and in the graph, and log each as a warning."""
    pairs = zip(edits, graphs, strict=True)
    each = (contradiction(edit, cache.facts.label, redirects=graph.graph["redirects"]) for edit, graph in pairs)
    found = [said for said in each if said]
    for said in found:
        logger.warning("%s", said)
    return found


def _by_ends(cache: WikidataCache, edits: Sequence[EditRow], path: Path) -> tuple[list[EditRow], list[EditRowError]]:
    """Return the edits whose subject and objects can be resolved in the graph, and the errors of the other edits."""
    ends = try_ends(edits, cache.facts)
    pairs = list(zip(edits, ends, strict=True))
    faults = [EditRowError(path, str(end), row=edit.row) for edit, end in pairs if isinstance(end, WikidataCacheError)]
    return [edit for edit, end in pairs if isinstance(end, EditEnds)], faults


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

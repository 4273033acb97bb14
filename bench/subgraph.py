"""One edit's subgraph (m = 10) from an on-disk graph, and again from the SQLite cache, against the plain way.

Every edit starts with nothing in memory. The plain way asks for one id at a time (statements, label and types
each) of the same store, and gives the same subgraphs. Medians over real edits; a 2-hop subgraph has the edit's
own edge and the statements of its two ends. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from tools.graph_edits import Edit, build_store, graph_files, real_edits
from tools.loopback import Loopback
from tools.plain import OneByOne

from wikidata_cache import Source, WikidataCache
from wikidata_cache.answers.cached_source import CachedSource
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.endpoints.endpoint import EndpointSource
from wikidata_cache.sources.oxigraph import OxigraphSource
from wikidata_cache.subgraphs.options import SubgraphOptions

SETTINGS: dict[str, dict[str, object]] = {
    "hops=2, roots o*": {},
    "hops=2, roots o* and s": {"roots": ("target_new", "subject")},
    "hops=3, roots o* and s": {"roots": ("target_new", "subject"), "hops": 3},
}
MAIN = "hops=2, roots o* and s"


def timed(source: Callable[[], Source], edits: Sequence[Edit], options: dict[str, object]) -> tuple[float, list[str]]:
    """Return the median milliseconds per subgraph, with nothing kept between edits, and the subgraphs' hashes."""
    times = []
    hashes = []
    for edit in edits:
        start = time.perf_counter()
        graph = WikidataCache(source()).subgraph(edit, SubgraphOptions(per_node=10, **options))  # type: ignore[arg-type]
        times.append(time.perf_counter() - start)
        hashes.append(graph.graph["content_hash"])
    return 1000 * median(times), hashes


def measure(store: OxigraphSource, url: str, folder: Path, edits: Sequence[Edit], name: str) -> dict[str, float]:
    """Time all three ways under one setting."""
    options = SETTINGS[name]
    with AnswerStore(folder / f"{len(options)}{options.get('hops', 2)}.sqlite") as answers:
        inner = EndpointSource(url)
        WikidataCache(CachedSource(inner, answers)).subgraphs(edits, SubgraphOptions(per_node=10, **options))  # type: ignore[arg-type]
        plain, expected = timed(lambda: OneByOne(store), edits, options)
        embedded, stored = timed(lambda: store, edits, options)
        hit, cached = timed(lambda: CachedSource(None, answers), edits, options)  # offline: the cache must answer
    if not expected == stored == cached:
        raise SystemExit(f"{name}: the ways give different subgraphs")
    print(f"{name}: plain {plain:.2f} ms, embedded {embedded:.2f} ms ({plain / embedded:.1f}x), hit {hit:.3f} ms")
    return {"plain_ms": round(plain, 3), "subgraph_ms": round(embedded, 3), "hit_ms": round(hit, 3)}


def main() -> None:
    """Run the benchmark, print the results, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--graph", help="graph files, separated by commas (by default that of the measurement data, or the extract)"
    )
    parser.add_argument("--edits", type=int, default=200)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    files = graph_files(options.graph)
    with tempfile.TemporaryDirectory() as temporary:
        store = build_store(files, Path(temporary) / "store")
        edits = real_edits(store, options.edits)
        source = OxigraphSource(store, name="store", provenance={"kind": "bench"})
        with Loopback(store) as server:
            seen = {name: measure(source, server.url, Path(temporary), edits, name) for name in SETTINGS}
    main_one = seen[MAIN]
    ratio = round(main_one["plain_ms"] / main_one["subgraph_ms"], 2)
    graph = ", ".join(file.name for file in files)
    result = {"name": "subgraph", "ratio": ratio, **main_one, "graph": graph, "edits": len(edits), "settings": seen}
    print(json.dumps(result))


if __name__ == "__main__":
    main()

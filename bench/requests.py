"""Requests for the subgraphs of 1,000 edits (m = 10) from a cold cache over HTTP on loopback, against the plain way.

All ids of the edits are known, and both ends are roots. Counted is every request that reaches the server, for
hop 1 (statements of subject and new object), hop 2 (statements of what these keep) and so on, with all labels
and types. The plain way is one request a node: its statements with labels and types of their values; the naive
way asks for statements, label and types one by one. All give the same subgraphs. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pyoxigraph import Store
from tools.graph_edits import Edit, build_store, graph_files, real_edits
from tools.loopback import Loopback
from tools.plain import OneByOne

from wikidata_cache import WikidataCache
from wikidata_cache.answers.cached_source import CachedSource
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.endpoints.endpoint import EndpointSource
from wikidata_cache.sources.oxigraph import OxigraphSource
from wikidata_cache.sources.source import Answer, Binding, Provenance, Template
from wikidata_cache.subgraphs.options import SubgraphOptions

ROOTS = ("target_new", "subject")
EXPANSIONS = (1, 2)  # 1: expand subject and new object; 2: also expand the nodes that they keep


class Counting:
    """An `EndpointSource` that counts its answers (one per request) by the kind of question."""

    def __init__(self, url: str) -> None:
        self._inner = EndpointSource(url)
        self.kinds: Counter[str] = Counter()

    @property
    def name(self) -> str:
        """The endpoint's name."""
        return self._inner.name

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        """Return the provenance of the endpoint."""
        return self._inner.provenance(ids)

    def ask(self, template: Template, ids: Sequence[str]) -> Iterator[Answer]:
        """Yield the answers of the endpoint, and count them."""
        for answer in self._inner.ask(template, ids):
            self.kinds[template.kind] += 1
            yield answer

    def select(self, query: str) -> Sequence[Binding]:
        """Return the rows of the endpoint."""
        return self._inner.select(query)


def batched(server: Loopback, edits: Sequence[Edit], hops: int, cache: Path) -> tuple[int, list[str]]:
    """Fetch all subgraphs with an empty cache; return the number of requests and the hashes of the subgraphs."""
    before = server.requests
    start = time.perf_counter()
    source = Counting(server.url)
    with AnswerStore(cache) as answers:
        graphs = WikidataCache(CachedSource(source, answers)).subgraphs(
            edits, SubgraphOptions(hops=hops, per_node=10, roots=ROOTS)
        )
    number = server.requests - before
    split = ", ".join(f"{kind} {count}" for kind, count in source.kinds.most_common())
    print(f"{hops - 1} expansion(s), batched: {number} requests ({split}), {time.perf_counter() - start:.1f} s")
    return number, [graph.graph["content_hash"] for graph in graphs]


def one_by_one(store: Store, edits: Sequence[Edit], hops: int, *, joined: bool) -> tuple[int, list[str]]:
    """Do the same the plain way, or without `joined` the naive way, on a store; count each question as a request.

    `check_count` shows that each question is one request.
    """
    source = OneByOne(OxigraphSource(store, name="store", provenance={}), joined=joined)
    graphs = WikidataCache(source).subgraphs(edits, SubgraphOptions(hops=hops, per_node=10, roots=ROOTS))
    split = ", ".join(f"{kind} {count}" for kind, count in source.asked.most_common())
    print(f"{hops - 1} expansion(s), {'plain' if joined else 'naive'}: {source.asked.total()} requests ({split})")
    return source.asked.total(), [graph.graph["content_hash"] for graph in graphs]


def check_count(server: Loopback, edits: Sequence[Edit]) -> None:
    """Run the naive way over HTTP, and compare its count of requests with the server's count."""
    before = server.requests
    source = OneByOne(EndpointSource(server.url))
    WikidataCache(source).subgraphs(edits, SubgraphOptions(hops=2, per_node=10, roots=ROOTS))
    if server.requests - before != source.asked.total():
        raise SystemExit(
            f"the naive way asked {source.asked.total()} times, the server heard {server.requests - before}"
        )
    print(f"naive over HTTP, {len(edits)} edits, 1 expansion: {source.asked.total()} requests heard by the server")


def main() -> None:
    """Run the benchmark, print the results, and end with one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--graph", help="graph files, separated by commas (by default that of the measurement data, or the extract)"
    )
    parser.add_argument("--edits", type=int, default=1000)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    files = graph_files(options.graph)
    seen: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        store = build_store(files, Path(temporary) / "store")
        edits = real_edits(store, options.edits)
        with Loopback(store) as server:
            check_count(server, edits[:50])
            for expansions in EXPANSIONS:
                hops = expansions + 1
                requests, hashes = batched(server, edits, hops, Path(temporary) / f"{expansions}.sqlite")
                plain, expected = one_by_one(store, edits, hops, joined=True)
                naive, again = one_by_one(store, edits, hops, joined=False)
                if not hashes == expected == again:
                    raise SystemExit("the ways give different subgraphs")
                counts = {"requests": requests, "plain_requests": plain, "naive_requests": naive}
                seen[f"{expansions} expansion(s)"] = counts
    most = seen[f"{EXPANSIONS[-1]} expansion(s)"]
    ratio = round(most["plain_requests"] / most["requests"], 1)
    graph = ", ".join(file.name for file in files)
    result = {"name": "requests", "ratio": ratio, **most, "edits": len(edits), "graph": graph, "settings": seen}
    print(json.dumps(result))


if __name__ == "__main__":
    main()

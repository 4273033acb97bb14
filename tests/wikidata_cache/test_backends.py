"""One subgraph from every engine: the same SPARQL, the same hash."""

import gzip
import zlib
from pathlib import Path

import pytest
import rdflib
from pyoxigraph import RdfFormat, Store
from wikidata_helpers import EDITS, Server, triples

from wikidata_cache import SparqlSource, WikidataCache, content_hash, packaged_extract
from wikidata_cache.sources.source import Provenance, Row


class RdflibSource(SparqlSource):
    """An independent SPARQL engine, in pure Python."""

    def __init__(self, path: Path) -> None:
        self._graph = rdflib.Graph()
        with gzip.open(path) as file:
            self._graph.parse(file, format="nt")

    @property
    def name(self) -> str:
        return "rdflib"

    def provenance(self) -> Provenance:
        return {"kind": "rdflib"}

    def select(self, query: str) -> list[Row]:
        rows = self._graph.query(query).bindings
        return [{str(name): str(term) for name, term in row.items()} for row in rows]


def hashes(cache: WikidataCache) -> list[str]:
    options = {"hops": 3, "per_node": 9, "seed": 5, "roots": ("target_new", "subject")}
    return [graph.graph["content_hash"] for graph in cache.subgraphs(EDITS, **options)]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def golden() -> list[str]:
    return hashes(WikidataCache(packaged_extract()))


def test_rdflib(golden: list[str]) -> None:
    assert hashes(WikidataCache(RdflibSource(packaged_extract()))) == golden


def test_endpoint(golden: list[str], server: Server) -> None:
    assert hashes(WikidataCache(server.url)) == golden
    assert len(server.requests) < 40  # batched: the three edits touch hundreds of nodes


@pytest.mark.parametrize("seed", [1, 2])
def test_load_order(golden: list[str], tmp_path: Path, seed: int) -> None:
    lines = gzip.decompress(packaged_extract().read_bytes()).splitlines(keepends=True)
    lines.sort(key=lambda line: zlib.crc32(line, seed))
    half = len(lines) // 2
    (tmp_path / "a.nt").write_bytes(b"".join(lines[:half]))
    (tmp_path / "b.nt.gz").write_bytes(gzip.compress(b"".join(lines[half:])))
    assert hashes(WikidataCache(tmp_path)) == golden


def test_on_disk(golden: list[str], tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    with gzip.open(packaged_extract()) as file:
        store.bulk_load(file, RdfFormat.N_TRIPLES)
    store.flush()
    del store
    assert hashes(WikidataCache(f"oxigraph:{tmp_path / 'store'}")) == golden


def test_an_endpoint_signs_with_its_url_and_time(server: Server) -> None:
    source = WikidataCache(server.url).subgraph(EDITS[0]).graph["source"]
    assert source["url"] == server.url
    assert source["fetched_at"].endswith("+00:00")


def test_the_hash_sees_every_triple_and_label(cache: WikidataCache) -> None:
    graph = cache.subgraph(EDITS[0])
    before = content_hash(graph)
    assert before == graph.graph["content_hash"]
    graph.nodes["Q1345"]["label"] = "Filadelfia"
    changed = content_hash(graph)
    graph.remove_edge(*sorted((u, v) for u, _, v in triples(graph) if u == "Q1345")[0])
    assert len({before, changed, content_hash(graph)}) == 3

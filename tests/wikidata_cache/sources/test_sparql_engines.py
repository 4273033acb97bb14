"""One subgraph from every engine: the same SPARQL, the same hash."""

import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
import rdflib
from pyoxigraph import RdfFormat, Store

from tests.everyday import keep_first
from tests.wikidata_cache.full_graph import EVERYWHERE, FULL_EDITS, full_graph
from tests.wikidata_cache.oxigraph_server import oxigraph_server
from tests.wikidata_cache.virtuoso_server import virtuoso
from tests.wikidata_cache.wikidata_helpers import EDITS, Server, content_hashes, triples
from wikidata_cache import Source, SparqlSource, WikidataCache, content_hash, open_source, packaged_extract
from wikidata_cache.answers.cached_source import CachedSource
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.endpoints.endpoint import EndpointSource
from wikidata_cache.extract import packaged_labels
from wikidata_cache.sources.graph_files import load_files
from wikidata_cache.sources.oxigraph import OxigraphSource
from wikidata_cache.sources.source import Binding, Provenance
from wikidata_cache.sources.wordings import LABELS_IN, NAMED_IN
from wikidata_cache.subgraphs.options import SubgraphOptions

BOTH_ENDS = ("target_new", "subject")
REAL = [
    SubgraphOptions(hops=3, per_node=9, seed=5, roots=BOTH_ENDS),
    SubgraphOptions(hops=3, per_node=4, direction="both"),
    SubgraphOptions(hops=3, per_node=5, policy="relation-stratified", roots=BOTH_ENDS),
    SubgraphOptions(hops=2, per_node=5, policy="inverse-hub", direction="both"),
]
ODD = [
    SubgraphOptions(hops=4, roots=EVERYWHERE, direction="both"),
    SubgraphOptions(hops=3, roots=EVERYWHERE, statements="all"),
    SubgraphOptions(hops=3, per_node=4, statements="all", direction="both", policy="inverse-hub"),
]


class RdflibSource(SparqlSource):
    """An independent SPARQL engine, in pure Python."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._graph = rdflib.Graph()
        for path in files:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                self._graph.parse(file, format="nt")

    @property
    def name(self) -> str:
        return "rdflib"

    def provenance(self, ids: Iterable[str] = ()) -> Provenance:
        return {"kind": "rdflib"}

    def select(self, query: str) -> list[Binding]:
        rows = self._graph.query(query).bindings
        return [{str(name): str(term) for name, term in row.items()} for row in rows]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    path = tmp_path_factory.mktemp("world") / "full.nt"
    path.write_text(full_graph(), encoding="utf-8")
    return [packaged_extract(), path]


def hashes(source: Source) -> list[str]:
    cases = [(FULL_EDITS, options) for options in ODD] + [(EDITS, options) for options in REAL]
    return [digest for edits, options in cases for digest in content_hashes(WikidataCache(source), edits, options)]


@pytest.fixture(scope="module")
def golden(files: list[Path]) -> list[str]:
    digests = hashes(OxigraphSource.from_files(files))
    assert len(set(digests)) == len(digests)  # no two settings give the same subgraphs
    return digests


@pytest.fixture(scope="module")
def folder(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Oxigraph store on disk."""
    path = tmp_path_factory.mktemp("disk") / "store"
    store = Store(str(path))
    for file in files:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            store.bulk_load(opened, RdfFormat.N_TRIPLES)
    store.flush()
    del store
    return path


@pytest.fixture
def loopback(files: list[Path]) -> Iterator[Server]:
    with Server(load_files(files)[0]) as running:
        yield running


def test_content_hashes_stay_the_same(cache: WikidataCache) -> None:
    """These hashes are in records of earlier runs."""
    assert content_hashes(cache) == [
        "54410aa1f9201734a2adcac65f92d82582c5b813e1a18779fd6da57ec95c8e41",
        "95effe9e37758ce6ac5857af53d8c8fdfbebc3ebf896915a4091ac5b3be59f7b",
        "cdd37d960414c08a9e91bf4831c9887ecbe66de9f113ddf4c504643ecf4c6655",
    ]


@pytest.mark.slow
def test_rdflib_gives_the_same_subgraphs(golden: list[str], files: list[Path]) -> None:
    assert hashes(RdflibSource(files)) == golden


def test_cache_gives_the_same_subgraphs_online_and_offline(
    golden: list[str], loopback: Server, cache_path: str
) -> None:
    with AnswerStore(cache_path) as answers:
        assert hashes(CachedSource(EndpointSource(loopback.url), answers)) == golden
        sent = len(loopback.requests)
        assert hashes(CachedSource(None, answers)) == golden
        assert len(loopback.requests) == sent


@pytest.mark.slow
def test_store_on_disk_gives_the_same_subgraphs(golden: list[str], folder: Path) -> None:
    first, second = open_source(f"oxigraph:{folder}"), open_source(f"oxigraph:{folder}")  # read-only: both at once
    assert hashes(first) == golden and first.provenance()["kind"] == "oxigraph"
    assert second.select("SELECT * { ?s ?p ?o } LIMIT 1")


def test_oxigraph_server_gives_the_same_subgraphs(golden: list[str], folder: Path) -> None:
    with oxigraph_server(folder) as url:
        assert hashes(EndpointSource(url)) == golden


def test_virtuoso_gives_the_same_subgraphs(golden: list[str], files: list[Path], tmp_path: Path) -> None:
    with virtuoso(files, tmp_path, rows=1_000_000) as url:
        assert hashes(EndpointSource(url)) == golden


def test_virtuoso_with_a_row_limit_gives_the_same_subgraphs(
    golden: list[str], files: list[Path], tmp_path: Path
) -> None:
    with virtuoso(files, tmp_path, rows=600) as url:  # one hub fits, a block of ids does not
        assert hashes(EndpointSource(url)) == golden


def test_requests_are_batched(server: Server, cache_path: str) -> None:
    WikidataCache(server.url, cache=cache_path).subgraphs(EDITS, SubgraphOptions(hops=3, per_node=9, roots=BOTH_ENDS))
    assert len(server.requests) < 10  # the three edits touch hundreds of nodes


@pytest.mark.parametrize("seed", keep_first([1, 2]))
def test_load_order_does_not_matter(golden: list[str], files: list[Path], tmp_path: Path, seed: int) -> None:
    text = gzip.decompress(files[0].read_bytes()) + files[1].read_bytes()
    lines = sorted(text.splitlines(keepends=True), key=lambda line: zlib.crc32(line, seed))
    half = len(lines) // 2
    (tmp_path / "a.nt").write_bytes(b"".join(lines[:half]))
    (tmp_path / "b.nt.gz").write_bytes(gzip.compress(b"".join(lines[half:])))
    assert hashes(open_source(tmp_path)) == golden


def test_endpoint_provenance_has_url_and_time(server: Server) -> None:
    source = WikidataCache(EndpointSource(server.url)).subgraph(EDITS[0]).graph["source"]
    assert source["url"] == server.url
    assert source["fetched_at"].endswith("+00:00")


def test_content_hash_depends_on_triples_labels_and_claims(cache: WikidataCache, files: list[Path]) -> None:
    graph = cache.subgraph(EDITS[0])
    before = content_hash(graph)
    assert before == graph.graph["content_hash"]
    graph.nodes["Q1345"]["label"] = "Filadelfia"
    changed = content_hash(graph)
    graph.remove_edge(*sorted((u, v) for u, _, v in triples(graph) if u == "Q1345")[0])
    assert len({before, changed, content_hash(graph)}) == 3
    full = WikidataCache(files[1]).subgraph(FULL_EDITS[0], SubgraphOptions(statements="all"))
    claimed = content_hash(full)
    next(data for *_, data in full.edges(data=True) if "claims" in data)["claims"].append({"rank": "normal"})
    assert content_hash(full) != claimed


@pytest.mark.slow
def test_words_in_other_languages_are_the_same_from_every_engine() -> None:
    files = [packaged_labels()]
    sources: list[Source] = [OxigraphSource.from_files(files), RdflibSource(files)]
    labels = [f"{entity} {family}" for entity in ("Q84", "Q65", "P19", "Q404") for family in ("de", "ko", "zh")]
    for template, keys in ((LABELS_IN, labels), (NAMED_IN, ["ko 런던", "zh 倫敦", "zh 런던", 'de "'])):
        found, expected = (
            [fact for answer in source.ask(template, keys) for fact in answer.facts] for source in sources
        )
        assert found == expected and any(fact.value for fact in found)

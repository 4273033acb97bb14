"""The types at the ends of relations: the same from every engine, in the cache and in snapshots, and safe to query."""

from collections import Counter
from pathlib import Path

import pytest

from tests.wikidata_cache.link_graph import write_graph
from tests.wikidata_cache.sources.test_sparql_engines import RdflibSource
from tests.wikidata_cache.virtuoso_server import virtuoso
from tests.wikidata_cache.wikidata_helpers import Server, facts
from wikidata_cache import WikidataCache
from wikidata_cache.answers.snapshot import export_snapshot, import_snapshot
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.endpoints.endpoint import EndpointSource
from wikidata_cache.errors import BadOptionError
from wikidata_cache.linking.knowledge import find_items_at_end, sample_end_types
from wikidata_cache.linking.linker import Linker
from wikidata_cache.sources.oxigraph import OxigraphSource

# Three are born somewhere, two of them in Rome; one place has two types, one has none.
PLACES = """\
Q1\tP19\tQ10
Q2\tP19\tQ10
Q3\tP19\tQ11
Q4\tP19\tQ12
Q1\tP31\tQ5
Q2\tP31\tQ5
Q10\tP31\tQ515
Q10\tP31\tQ1549591
Q11\tP31\tQ515
Q4\tP20\tQ13
"""
ENDS = {
    "P19 object": [2, [["Q1549591", 1], ["Q515", 2]]],
    "P19 subject": [2, [["Q5", 2]]],
    "P20 object": [0, []],
}
SMUGGLED = 'P19 object" AS ?r) { ?s ?p ?o } #'
PRESENT = {"P19 object Q10": True, "P19 object Q13": False, "P19 subject Q4": True, "P20 object Q13": True}


@pytest.fixture
def places(tmp_path: Path) -> Path:
    path = tmp_path / "places.tsv"
    path.write_text(PLACES, encoding="utf-8")
    return path


def test_ends_have_counted_types(places: Path) -> None:
    source = facts(OxigraphSource.from_files([places]))
    assert source.ends(ENDS) == ENDS
    assert source.at_ends(PRESENT) == PRESENT
    objects = sample_end_types(source, "P19", "object")
    assert objects is not None
    assert (objects.sampled, objects.shares) == (2, {"Q1549591": 0.5, "Q515": 1.0})
    assert sample_end_types(source, "P20", "object") is None
    assert find_items_at_end(source, "P19", "object", ["Q10", "Q13", "P19"]) == {"Q10"}


@pytest.mark.slow
def test_ends_are_the_same_from_another_engine(tmp_path: Path) -> None:
    source = facts(RdflibSource([write_graph(tmp_path, PLACES.replace("\t", " | "))]))
    assert (source.ends(ENDS), source.at_ends(PRESENT)) == (ENDS, PRESENT)


@pytest.mark.slow
def test_ends_are_the_same_from_virtuoso(tmp_path: Path) -> None:
    (tmp_path / "virtuoso").mkdir()
    with virtuoso([write_graph(tmp_path, PLACES.replace("\t", " | "))], tmp_path / "virtuoso", rows=10_000) as url:
        source = facts(EndpointSource(url))
        assert (source.ends(ENDS), source.at_ends(PRESENT)) == (ENDS, PRESENT)


def test_snapshot_includes_ends(places: Path, server: Server, tmp_path: Path) -> None:
    server.store = OxigraphSource.from_files([places])._store
    cached = WikidataCache(server.url, cache=tmp_path / "a.sqlite").facts
    assert (cached.ends(ENDS), cached.at_ends(PRESENT)) == (ENDS, PRESENT)
    export_snapshot(AnswerStore(tmp_path / "a.sqlite"), tmp_path / "s.jsonl.gz")
    import_snapshot(AnswerStore(tmp_path / "b.sqlite"), tmp_path / "s.jsonl.gz")
    imported = WikidataCache(cache=tmp_path / "b.sqlite", mode="offline").facts
    assert (imported.ends(ENDS), imported.at_ends(PRESENT)) == (ENDS, PRESENT)
    assert Counter(len(query) < 8_000 for _, _, query in server.requests) == {True: 2}


@pytest.mark.parametrize("bad", ["P19 objects", "Q19 object", SMUGGLED, "P19 object Q65 ", "P19 owner"])
def test_ends_refuse_sparql(places: Path, bad: str) -> None:
    cache = WikidataCache(places)
    with pytest.raises(BadOptionError, match="is not an end of a relation"):
        cache.facts.ends([bad])
    with pytest.raises(BadOptionError, match="is not an end of a relation"):
        cache.facts.at_ends([bad])
    with pytest.raises(BadOptionError, match="expected a property id such as P551"):
        Linker(cache.linker.knowledge, cache.facts).link("x", relation=bad)

"""The graph that a command reads without --graph: the cache, and the packaged extract for what it lacks."""

import json
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.wikidata_cache.wikidata_helpers import Server, run_cli, save_facts
from wikidata_cache import WikidataCache, packaged_extract
from wikidata_cache.answers.cached_source import FallbackSource
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.cli.options import open_cache
from wikidata_cache.edits import EditRow
from wikidata_cache.errors import (
    CacheMissError,
    EntityNotInGraphError,
    SourceStringError,
    WikidataCacheError,
)
from wikidata_cache.linking.edit_links import link_all
from wikidata_cache.linking.linker import open_linker
from wikidata_cache.sources.source import Fact

FACTS = (
    Fact("label", "Q1", ["Universe", "en"]),
    Fact("label", "P19", ["born at", "en"]),  # in the extract: place of birth
    Fact("label", "Q2", ["Terra", "en"]),
    Fact("out", "Q1", [["P19", "Q65"]]),
    Fact("types", "Q65", []),
)


@pytest.fixture
def small(tmp_path: Path) -> str:
    """A cache with facts of its own."""
    return str(save_facts(tmp_path / "small.sqlite", *FACTS).path)


def test_commands_read_the_cache_and_then_the_extract(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Path(small).read_bytes()
    assert (
        run_cli("labels", "Q1", "P19", "Q1345", "--cache", small) == "Q1\tUniverse\nP19\tborn at\nQ1345\tPhiladelphia\n"
    )
    monkeypatch.setenv("KG_CACHE", small)
    assert run_cli("labels", "Q1", "Q1345") == "Q1\tUniverse\nQ1345\tPhiladelphia\n"
    output = run_cli("show", "Q1")
    assert "born at" in output and "Los Angeles" in output and "Q1 P19 Q65" in output
    assert run_cli("find", "Terra") == "Q2\n" and run_cli("find", "Philadelphia") == "Q1345\n"
    assert Path(small).read_bytes() == before


def test_cache_in_the_usual_folder_is_read(server: Server) -> None:
    assert run_cli("labels", "Q1345") == "Q1345\tPhiladelphia\n"
    run_cli("fetch", "--kind", "label", "Q999999999", "--endpoint", server.url)
    assert run_cli("labels", "Q1345") == "Q1345\tPhiladelphia\n"  # offline, the cache alone lacks it
    with pytest.raises(CacheMissError):
        run_cli("labels", "Q1345", "--offline")


def test_offline_reads_the_cache_alone(small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_cli("labels", "Q1345", "--offline") == "Q1345\tPhiladelphia\n"  # there is no cache at all
    assert run_cli("labels", "Q1", "--offline", "--cache", small) == "Q1\tUniverse\n"
    with pytest.raises(CacheMissError):
        run_cli("labels", "Q1345", "--offline", "--cache", small)
    monkeypatch.setenv("KG_OFFLINE", "1")
    assert run_cli("labels", "Q1345") == "Q1345\tPhiladelphia\n"
    with pytest.raises(CacheMissError):
        run_cli("labels", "Q1345", "--cache", small)
    with pytest.raises(CacheMissError):  # facts to fetch are never taken from the extract
        run_cli("fetch", "--kind", "label", "Q1345")


def test_link_without_a_cache_reads_the_extract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edits, out, cache = tmp_path / "edits.jsonl", tmp_path / "linked.jsonl", tmp_path / "new" / "paper.sqlite"
    monkeypatch.setenv("KG_CACHE", str(cache))  # not made yet: no reason to refuse the packaged extract
    edits.write_text(json.dumps({"subject": "LeBron James", "target_new": "Miami Heat"}) + "\n")
    assert "1 of 1 edits settled" in run_cli("link", str(edits), "--out", str(out))
    assert json.loads(out.read_text())["target_new_id"] == "Q169138"
    assert not cache.parent.exists()


def test_linker_reads_cache_and_extract(small: str) -> None:
    cache = open_cache(None, cache=small)
    linker = open_linker(cache.facts)
    assert linker.link("Terra").candidates[0].id == "Q2"
    assert linker.link("heat, Miami").candidates[0].id == "Q169138"  # by its words, from the extract's index
    assert linker.link("born at", kind="property").candidates[0].id == "P19"


def test_edits_are_linked_by_one_look_at_the_labels_of_the_cache(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_cache(None, cache=small)
    edits = [EditRow(row=row, subject=f"Terra {row}", target_new="Terra", relation="P19") for row in range(1, 30)]
    looks: list[int] = []
    labelled = AnswerStore.find_labelled

    def counted(store: AnswerStore, graph: str, labels: Collection[str], **more: str | None) -> set[str]:
        looks.append(len(labels))
        return labelled(store, graph, labels, **more)

    monkeypatch.setattr(AnswerStore, "find_labelled", counted)
    linked = list(link_all(cache.linker, edits))
    assert [link.target_new.candidates[0].id for link in linked] == ["Q2"] * len(edits)
    assert len(looks) == 1 and looks[0] >= 30


def test_newest_label_in_the_cache_wins(small: str) -> None:
    labels = [Fact("label", "Q65", ["L.A.", "en"]), Fact("label", "Q2", ["Earth", "en"])]
    save_facts(small, *labels, at="2026-11-20T13:00:00.000+00:00")
    cache = open_cache(None, cache=small)
    assert ("P159", "Q65") in cache.facts.out(["Q121783"])["Q121783"]  # comes with the extract's label of Q65
    assert cache.labels(["Q65"]) == {"Q65": "L.A."}
    assert (cache.find("Terra"), cache.find("Earth")) == ((), ("Q2",))
    assert cache.find("no label is as long as this " * 20) == ()


def test_unknown_id_names_cache_and_extract(small: str, tmp_path: Path) -> None:
    with pytest.raises(WikidataCacheError, match=r"small\.sqlite.*extract\.nt\.gz.*-g URL.*-g wd/.*`fetch`"):
        run_cli("show", "Q999999999", "--cache", small)
    (tmp_path / "e.jsonl").write_text('{"subject": "A", "target_new": "B", "target_new_id": "Q999999999"}')
    ways_out = r"--graph URL.*--graph wd/.*`wikidata-cache fetch`"
    with pytest.raises(EntityNotInGraphError, match=rf"small\.sqlite.*extract\.nt\.gz.*{ways_out}"):
        run_cli("show", str(tmp_path / "e.jsonl"), "--cache", small)


def test_provenance_has_cache_and_extract(small: str) -> None:
    source = open_cache(None, cache=small).source
    assert isinstance(source, FallbackSource)
    provenance = source.provenance(["Q1"])
    assert provenance["kind"] == "cache over graph"
    assert "http://e/" in str(provenance["cache"]) and "extract.nt.gz" in str(provenance["graph"])


def test_packs_are_read(small: str) -> None:
    assert run_cli("show", "Q1", "--pack", small)


@pytest.mark.slow
def test_extract_is_the_name_of_a_graph(edits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KG_CACHE", str(tmp_path / "none.sqlite"))
    by_path = run_cli("fetch", str(edits), "--endpoint", str(packaged_extract()))
    assert run_cli("fetch", str(edits), "--endpoint", "extract") == by_path
    assert run_cli("fetch", str(edits), "--graph", "extract") == by_path
    monkeypatch.setenv("KG_GRAPH", "extract")
    assert run_cli("fetch", str(edits)) == by_path
    assert run_cli("labels", "Q1345", "-g", "extract") == "Q1345\tPhiladelphia\n"
    assert WikidataCache("extract").source.name == "extract.nt.gz"
    assert "19,793 statements" in run_cli("load", "extract", "--store", str(tmp_path / "wd"))
    monkeypatch.chdir(tmp_path)
    Path("extract").mkdir()  # a folder of this name comes first
    with pytest.raises(SourceStringError, match="extract contains no graph file"):
        WikidataCache("extract")

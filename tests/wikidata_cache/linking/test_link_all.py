"""Linking many edits against an endpoint: the same as one by one, in a handful of requests; and labels to fetch."""

from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.wikidata_cache.wikidata_helpers import Edit, Server, run_cli, write_edits
from wikidata_cache import WikidataCache, cli
from wikidata_cache.errors import AmbiguousLabelError, CacheMissError, EntityNotInGraphError, UnknownLabelError
from wikidata_cache.ids import DIRECT, ENTITY, local_id
from wikidata_cache.linking.edit_links import link_all, link_edit
from wikidata_cache.subgraphs.edit_ends import resolve_ends

_STATED = f"""
SELECT ?s ?p ?o WHERE {{ ?s ?p ?o . FILTER(STRSTARTS(STR(?p), "{DIRECT}P")) FILTER(STRSTARTS(STR(?o), "{ENTITY}Q")) }}
ORDER BY ?p ?s ?o
"""


def in_words(cache: WikidataCache, number: int, *, relations: int) -> list[Edit]:
    """Edits of facts that the extract states: labels alone, the new target from the next fact of the relation."""
    rows = [[local_id(row[name]) for name in "spo"] for row in cache.source.select(_STATED)]
    labels = cache.labels({entity for row in rows for entity in row})
    named = [row for row in rows if all(entity in labels for entity in row)]
    stated = {
        (relation, subject): Edit(labels[subject], labels[other], labels[old], labels[relation])
        for (subject, relation, old), (_, same, other) in pairwise(named)
        if relation == same and other != old
    }
    by_relation: dict[str, list[Edit]] = {}
    for (relation, _), edit in sorted(stated.items()):
        by_relation.setdefault(relation, []).append(edit)
    largest = sorted(by_relation.values(), key=len, reverse=True)[:relations]
    return [edit for group in largest for edit in group[: number // relations]]


@pytest.fixture(scope="module")
def edits(cache: WikidataCache) -> list[Edit]:
    return in_words(cache, 30, relations=5)


@pytest.mark.slow
def test_link_all_equals_link_edit(edits: list[Edit], server: Server, tmp_path: Path) -> None:
    together, alone = (WikidataCache(server.url, cache=tmp_path / f"{n}.sqlite").linker for n in "ab")
    mixed = [*edits[:6], Edit(edits[0].subject, "Nowhere at all", subject_id="Q1345", relation_id="P17")]
    assert list(link_all(together, mixed)) == [link_edit(alone, edit) for edit in mixed]
    assert any("is stated in the graph" in str(linked.subject.candidates) for linked in link_all(together, mixed))


@pytest.mark.slow
def test_link_all_of_thirty_edits_sends_a_dozen_requests(edits: list[Edit], server: Server, cache_path: str) -> None:
    assert len(edits) == 30
    linked = list(link_all(WikidataCache(server.url, cache=cache_path).linker, edits))
    assert sum("is stated in the graph" in str(link.subject.candidates) for link in linked) >= 15
    assert len(server.requests) <= 12
    before = len(server.requests)
    assert list(link_all(WikidataCache(server.url, cache=cache_path).linker, edits)) == linked
    offline = list(link_all(WikidataCache(cache=cache_path, mode="offline").linker, edits))
    assert [link.clear_candidates() for link in offline] == [link.clear_candidates() for link in linked]
    alone = WikidataCache(cache=cache_path, mode="offline").linker  # the cache has the answers of the batch
    assert [link_edit(alone, edit).clear_candidates() for edit in edits] == [link.clear_candidates() for link in linked]
    assert len(server.requests) == before


@pytest.mark.slow
def test_offline_miss_names_all_labels_at_once(edits: list[Edit], server: Server, cache_path: str) -> None:
    list(link_all(WikidataCache(server.url, cache=cache_path).linker, edits[:3]))
    offline = WikidataCache(cache=cache_path, mode="offline").linker
    with pytest.raises(CacheMissError, match="kind 'named' for Nobody, Nowhere"):
        list(link_all(offline, [*edits[:3], Edit("Nobody", "Nowhere")]))


def test_resolve_ends_fetches_labels_in_batches(edits: list[Edit], server: Server, cache_path: str) -> None:
    """Good, unknown and ambiguous ones: what a row costs must not depend on another row's fault."""
    wrong = [Edit("x", f"Nowhere {number}") for number in range(20)] + [Edit("x", "gone", target_new_id="Q999999999")]
    facts = WikidataCache(server.url, cache=cache_path).facts
    resolved = resolve_ends([*wrong, *edits], facts)
    kinds = [type(resolved.errors[number]) for number in range(21)]
    assert kinds == [UnknownLabelError] * 20 + [EntityNotInGraphError]
    assert resolved.ends
    assert len(server.requests) <= 10


def test_resolve_ends_describes_homonyms_in_one_request(tmp_path: Path) -> None:
    rows = [f"Q{n}\tP31\tQ{900 + n % 3}\nQ{n}\tlabel\tName {n // 2}\n" for n in range(100, 160)]
    types = [f"Q{n}\tlabel\tkind {n}\n" for n in range(900, 903)]
    graph = tmp_path / "graph.tsv"
    graph.write_text("".join([*rows, *types]), encoding="utf-8")
    store = WikidataCache(graph).source._store  # type: ignore[attr-defined]
    with Server(store) as server:
        facts = WikidataCache(server.url, cache=tmp_path / "a.sqlite").facts
        errors = resolve_ends([Edit("x", f"Name {n}") for n in range(50, 80)], facts).errors
        assert [type(error) for error in errors.values()] == [AmbiguousLabelError] * 30
        assert "Q100 (kind 901); Q101 (kind 902)" in str(errors[0])
        assert len(server.requests) <= 6


def test_link_command_checks_files_first(tmp_path: Path) -> None:
    edits = write_edits(tmp_path / "edits.jsonl", {"subject": "Spike Hughes", "target_new": "Philadelphia"})
    before = edits.read_bytes()
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "other name.jsonl").hardlink_to(edits)
    for out, message in {
        "edits.jsonl": "is the input file itself; give another name",
        "other name.jsonl": "is the input file itself",
        "absent/linked.jsonl": f"there is no folder {tmp_path / 'absent'}. Make it",
        "folder.jsonl": "is a folder",
    }.items():
        # A graph that does not exist: nothing may be opened before the names are checked.
        result = CliRunner().invoke(cli.app, ["link", str(edits), "--out", str(tmp_path / out), "-g", "absent.nt"])
        assert message in str(result.exception), out
    assert edits.read_bytes() == before
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    result = CliRunner().invoke(cli.app, ["link", str(empty), "--out", str(tmp_path / "o.jsonl"), "-g", "absent.nt"])
    assert 'has no rows; expected one edit per row, such as {"subject"' in str(result.exception)


def test_link_command_links_one_row_or_repeated_rows(tmp_path: Path) -> None:
    rows = [{"subject": "x", "target_new": "y"}, *[{"subject": "LeBron James", "target_new": "Miami Heat"}] * 2]
    edits, out = write_edits(tmp_path / "edits.jsonl", *rows), tmp_path / "linked.jsonl"
    assert run_cli("link", f"{edits}:2", "--out", out).endswith("1 of 1 edits settled\n")
    [line] = out.read_text().splitlines()
    CliRunner().invoke(cli.app, ["link", str(edits), "--out", str(out)])
    assert out.read_text().splitlines()[1:] == [line, line]


@pytest.mark.slow
def test_link_command_suggests_names_of_relations() -> None:
    def link(relation: str) -> tuple[str, int, str]:
        result = CliRunner().invoke(cli.app, ["link", "Los Angeles", "--relation", relation])
        return str(result.exception), result.exit_code, result.stderr

    error = link("place of brith")[0]
    assert "is not in this graph (extract.nt.gz). The nearest names: 'place of birth' (P19). Give" in error
    ambiguous = link("place of")[0]
    assert "may mean P" in ambiguous and "P19 (place of birth)" in ambiguous
    _, code, warning = link("P99999999")
    assert code == 0
    assert "warning: extract.nt.gz has no property P99999999" in warning
    assert link("P551")[2] == ""

"""Linking an edit: a fact that the graph states settles its parts, and a file of edits gets its ids."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.wikidata_cache.link_graph import ROWS, homonyms, only, write_graph
from tests.wikidata_cache.wikidata_helpers import Edit, Server, read_shared, write_edits
from wikidata_cache import WikidataCache, cli
from wikidata_cache.edits import read_edits
from wikidata_cache.endpoints.endpoint import EndpointSource
from wikidata_cache.errors import AmbiguousLabelError, BadOptionError, EditRowError
from wikidata_cache.fetch import fetch_edits
from wikidata_cache.linking.candidates import LinkResult
from wikidata_cache.linking.edit_file import link_edits
from wikidata_cache.linking.edit_links import link_edit
from wikidata_cache.linking.linker import Linker

ANNA = Edit(subject="Anna", relation="place of birth", target_true="Paris", target_new="Rome")


@pytest.fixture
def linker(tmp_path: Path) -> Linker:
    return homonyms(tmp_path).linker


def reasons(linked: LinkResult | None) -> str:
    assert linked is not None
    return " / ".join(map(str, linked.candidates[0].reasons))


def test_stated_fact_settles_all_its_parts(linker: Linker) -> None:
    # Two Annas and three Parises: alone, each is ambiguous, and the famous Paris leads.
    assert linker.link("Anna").status == linker.link("Paris").status == "ambiguous"
    linked = link_edit(linker, ANNA)
    assert {name: candidate.id for name, candidate in linked.clear_candidates().items()} == {
        "subject_id": "Q11",
        "relation_id": "P19",
        "target_new_id": "Q300",
        "target_true_id": "Q830149",
    }
    assert "+20.0 Q11 P19 Q830149 is stated in the graph" in reasons(linked.subject)
    assert "+20.0 Q11 P19 Q830149 is stated in the graph" in reasons(linked.target_true)
    assert "+1.0 city, like Paris" in reasons(linked.target_new)


def test_fact_that_is_not_stated_settles_nothing(linker: Linker) -> None:
    linked = link_edit(linker, Edit(subject="Anna", relation="place of death", target_true="Paris", target_new="Rome"))
    assert linked.subject.status == "ambiguous"
    assert linked.parts()["target_true_id"].status == "ambiguous"
    assert linked.clear_candidates().keys() == {"relation_id", "target_new_id"}


@pytest.mark.parametrize(("relation", "best"), [("P103", "Q150"), ("P172", "Q121842")])
def test_ambiguous_object_is_refused_with_the_best_candidate_of_the_edit(
    tmp_path: Path, relation: str, best: str
) -> None:
    """Which one that is depends on the relation: the language for a native language, the people for an ethnic group."""
    cache = homonyms(tmp_path, ROWS + "Q11 | P103 | Q150\nQ12 | P172 | Q121842\n")
    edit = Edit(subject="Zidane", relation_id=relation, target_new="French")
    with pytest.raises(AmbiguousLabelError, match=f'names 2 entities: {best}.*target_new_id: "{best}"') as caught:
        cache.subgraph(edit)
    assert set(caught.value.candidates) == {"Q150", "Q121842"} and "(language)" in str(caught.value)
    file = write_edits(tmp_path / "edits.jsonl", {"subject": "Z", "relation": relation, "target_new": "French"})
    with pytest.raises(EditRowError, match=f'target_new_id: "{best}"'):
        fetch_edits(cache, read_edits(file), path=file)
    # An endpoint is asked for the candidates, their classes and their statements, and nothing more for the message.
    with Server(cache.source._store) as server, pytest.raises(AmbiguousLabelError):  # type: ignore[attr-defined]
        WikidataCache(EndpointSource(server.url)).subgraph(edit)
    assert len(server.requests) == 3


def test_two_stated_facts_stay_ambiguous(tmp_path: Path) -> None:
    linker = homonyms(tmp_path, ROWS + "Q12 | P19 | Q90\n").linker
    linked = link_edit(linker, ANNA)
    assert linked.subject.status == "ambiguous"


def test_fact_is_found_without_the_name_of_its_relation(linker: Linker) -> None:
    edit = Edit(subject="Anna", relation="first saw the light of day in", target_true="Paris", target_new="Rome")
    linked = link_edit(linker, edit)
    assert linked.relation is not None
    assert linked.relation.status == "none"
    assert linked.clear_candidates()["subject_id"].id == "Q11"


def test_given_ids_are_checked_by_their_labels(linker: Linker) -> None:
    edit = Edit(subject="Anna", subject_id="Q12", relation_id="P19", target_new="Rome", target_new_id="Q300")
    linked = link_edit(linker, edit)
    assert {name: candidate.id for name, candidate in linked.clear_candidates().items()} == {
        "subject_id": "Q12",
        "relation_id": "P19",
        "target_new_id": "Q300",
    }
    wrong = link_edit(linker, Edit(subject="Anna", subject_id="Q300", target_new="Rome"))
    assert wrong.subject.status == "ambiguous"
    assert "its label is 'Rome', not 'Anna'" in reasons(wrong.subject)


def test_stated_fact_does_not_settle_an_id_with_another_label(linker: Linker) -> None:
    wrong = Edit(subject="Rome", subject_id="Q11", relation_id="P19", target_true="Paris", target_new="Rome")
    linked = link_edit(linker, wrong)
    assert "+20.0 Q11 P19 Q830149 is stated in the graph" in reasons(linked.subject)
    assert "its label is 'Anna', not 'Rome'" in reasons(linked.subject)
    assert linked.subject.status == "ambiguous"


def test_parts_say_that_their_types_were_not_compared(linker: Linker) -> None:
    # No statement of the graph has a place of death.
    linked = link_edit(linker, Edit(subject="Anna", relation_id="P20", target_true="Paris", target_new="Rome"))
    for name, role in {"subject_id": "subjects", "target_new_id": "objects", "target_true_id": "objects"}.items():
        assert linked.parts()[name].notes == (f"types were not compared: homonyms.nt has no {role} of P20 with a type",)


def test_edit_of_unknown_names_has_no_candidates(linker: Linker) -> None:
    linked = link_edit(linker, Edit(subject="Nobody", relation="does", target_new="nothing", target_true=""))
    assert {name: part.status for name, part in linked.parts().items()} == {
        "subject_id": "none",
        "relation_id": "none",
        "target_new_id": "none",
    }
    assert linked.clear_candidates() == {}


def test_link_edits_adds_ids_and_changes_nothing_else(linker: Linker, tmp_path: Path) -> None:
    rows = [
        {"subject": "Anna", "relation": "place of birth", "object": "Paris", "target_new": "Rome", "note": "été"},
        {"subject": "Nobody", "target_new": "French", "relation_id": "P19"},
        {"subject": "Q11", "object": "Paris", "object_id": "Q1000", "new_object": "Rome", "new_object_id": "Q300"},
    ]
    edits, out = write_edits(tmp_path / "edits.jsonl", *rows), tmp_path / "linked.jsonl"
    report = link_edits(linker, edits, out)
    assert (report.edits, report.complete) == (3, 2)
    assert [(row, field) for row, field, _ in report.open] == [(2, "target_new_id")]
    assert [(row, field) for row, field, _ in report.absent] == [(2, "subject_id")]
    first, second, third = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    ids = {"subject_id": "Q11", "relation_id": "P19", "target_new_id": "Q300", "target_true_id": "Q830149"}
    assert first == rows[0] | ids
    assert {name: second[name] for name in rows[1]} == rows[1]
    assert second["candidates"]["subject_id"] == []
    assert [candidate["id"] for candidate in second["candidates"]["target_new_id"]] == ["Q150", "Q121842"]
    # kg-edit refuses a row with target_true_id beside object_id.
    assert third == rows[2] | {"subject_id": "Q11", "object_id": "Q90"}
    again = read_edits(out)  # what was written is a file of edits
    assert (again[0].subject_id, again[0].target_true_id) == ("Q11", "Q830149")
    twice = tmp_path / "twice.jsonl"
    link_edits(linker, out, twice)
    assert twice.read_bytes() == out.read_bytes()


def test_id_without_a_label_is_open_if_the_graph_states_something_of_it(tmp_path: Path) -> None:
    linker = homonyms(tmp_path, ROWS + "Q700 | P31 | Q515\n").linker  # a city without a label
    rows = [
        {"subject": "Lima", "subject_id": "Q700", "target_new": "Rome"},
        {"subject": "Lima", "subject_id": "Q701", "target_new": "Rome"},
    ]
    edits = write_edits(tmp_path / "edits.jsonl", *rows)
    report = link_edits(linker, edits, tmp_path / "linked.jsonl")
    assert [(part.row, part.field) for part in report.open] == [(1, "subject_id")]
    assert [(part.row, part.field) for part in report.absent] == [(2, "subject_id")]


def test_candidates_are_chosen_by_row_or_name_on_the_command_line(tmp_path: Path) -> None:
    graph = write_graph(tmp_path)
    french = {"subject": "Anna", "relation": "native language", "target_new": "French"}
    rows = [{"subject": "Rome", "target_new": "Paris"}, french, {**french, "subject": "Earth"}]
    edits, out = write_edits(tmp_path / "edits.jsonl", *rows), tmp_path / "linked.jsonl"

    def link(*choices: str) -> Result:
        options = [part for choice in choices for part in ("--choose", choice)]
        return CliRunner().invoke(cli.app, ["link", str(edits), "-g", str(graph), "--out", str(out), *options])

    first = link()
    assert first.exit_code == 3 and "such as --choose 1=Q90, and the same command" in first.output
    second = link("French=Q121842", "1=Q90")
    assert second.exit_code == 3 and "2 of 3 edits settled" in second.output  # two Annas are left
    assert link("French=Q121842", "1=Q90", "2=Q12").exit_code == 0
    linked = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["target_new_id"] for row in linked] == ["Q90", "Q121842", "Q121842"]
    assert linked[1]["subject_id"] == "Q12" and not any("candidates" in row for row in linked)
    for choices, message in {
        ("4=Q90",): "there is no row 4; the rows are 1 to 3",
        ("Pariss=Q90",): "no row has the name 'Pariss'",
        ("1=Q90", "Paris=Q47899"): "Q90 is chosen for target_new_id of row 1 too",
        ("1=Q150",): "Q150 is not a candidate there; found target_new_id: Q90 (Paris: capital of France)",
        ("2=Q90",): "Q11 (Anna: human); Q12 (Anna: human), target_new_id: Q150 (French",
        ("1",): "expected a row or a name, and an id",
    }.items():
        before = out.read_bytes()
        result = link(*choices)
        assert isinstance(result.exception, BadOptionError) and message in str(result.exception)
        assert out.read_bytes() == before
    alone = CliRunner().invoke(cli.app, ["link", "Paris", "-g", str(graph), "--choose", "1=Q90"])
    assert "--choose is for a file of edits" in str(alone.exception)


@pytest.mark.parametrize("as_text", [False, True])
def test_link_edits_fills_counterfact_records(linker: Linker, tmp_path: Path, as_text: bool) -> None:
    rewrite: dict[str, object] = {"prompt": "{} was born in", "subject": "Anna", "relation_id": "P19"}
    for name, text in (("target_new", "Rome"), ("target_true", "Paris")):
        rewrite[name] = text if as_text else {"str": text}
    edits = write_edits(tmp_path / "edits.jsonl", {"case_id": 7, "requested_rewrite": rewrite})
    assert link_edits(linker, edits, tmp_path / "linked.jsonl").complete == 1
    linked = json.loads((tmp_path / "linked.jsonl").read_text())
    assert linked["case_id"] == 7 and linked["requested_rewrite"]["prompt"] == "{} was born in"
    assert linked["requested_rewrite"]["target_true"] == {"str": "Paris", "id": "Q830149"}
    (edit,) = read_edits(tmp_path / "linked.jsonl")
    assert (edit.subject_id, edit.target_new_id, edit.target_true_id) == ("Q11", "Q300", "Q830149")


def test_link_edits_of_a_bad_file_writes_nothing(linker: Linker, tmp_path: Path) -> None:
    edits, out = write_edits(tmp_path / "edits.jsonl", {"subject": "Anna"}), tmp_path / "linked.jsonl"
    with pytest.raises(EditRowError, match=r"edits.jsonl, row 1, field target_new"):
        link_edits(linker, edits, out)
    with pytest.raises(BadOptionError, match=r"ending in \.jsonl"):
        link_edits(linker, edits, tmp_path / "linked.csv")
    assert not out.exists()


def test_link_of_counterfact_targets_is_never_wrong(cache: WikidataCache, tmp_path: Path) -> None:
    """Never a wrong id where the status is exact, and most targets that the extract has are settled."""
    records = json.loads(read_shared("counterfact_plus/dev.json").read_text(encoding="utf-8"))
    right = 0
    for record in records[:60]:
        rewrite = record["requested_rewrite"]
        target = rewrite["target_true"]
        if target["id"] not in cache.labels([target["id"]]):
            continue
        linked = cache.linker.link(target["str"], relation=rewrite["relation_id"])
        assert target["id"] in [candidate.id for candidate in linked.candidates], rewrite
        if linked.status == "exact":
            assert only(linked).id == target["id"], rewrite
            right += 1
    assert right >= 20

"""What changed between two times: from versions in the cache, and from the dates of statements."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from pyoxigraph import Literal, NamedNode, Quad, Store

from kg_edit.edits.files import read_edits
from tests.wikidata_cache.wikidata_helpers import Server, run_cli, save_facts
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.changes import Change, compare_dates, compare_versions
from wikidata_cache.endpoints.endpoint import now
from wikidata_cache.errors import BadOptionError
from wikidata_cache.sources.source import Fact

JUNE, JULY = "2026-06-01T12:00:00.000+00:00", "2026-07-01T12:00:00.000+00:00"
MAY, NOVEMBER = "2026-05-01T00:00:00.000+00:00", "2026-11-01T00:00:00.000+00:00"
FIRST, SECOND = [["P54", "Q1"], ["P108", "Q7"]], [["P54", "Q2"], ["P108", "Q7"]]


def changed(path: Path, *, since: str = JUNE, until: str = NOVEMBER) -> tuple[list[Change], dict[str, int]]:
    with AnswerStore(path, read_only=True) as store:
        changes = compare_versions(store, graph="wikidata", since=since, until=until)
    return changes.replacements, dict(changes.other_counts)


def test_replaced_object_is_a_change(tmp_path: Path) -> None:
    cache = tmp_path / "c.sqlite"
    save_facts(cache, Fact("out", "Q10", FIRST), at=JUNE)
    save_facts(cache, Fact("out", "Q10", SECOND), at=JULY)
    change = Change(subject="Q10", relation="P54", old="Q1", new="Q2", time=JULY)
    assert changed(cache) == ([change], {})
    assert changed(cache, until="2026-06-15T00:00:00.000+00:00") == ([], {}), "the new version is later"
    assert changed(cache, since=MAY) == ([], {}), "the item has no version at the earlier time"


@pytest.mark.parametrize(
    ("new", "what"),
    [
        ([*FIRST, ["P54", "Q3"]], "objects were only added"),
        ([["P108", "Q7"]], "objects were only removed"),
        ([["P54", "Q2"], ["P54", "Q3"], ["P108", "Q7"]], "several objects were replaced"),
    ],
)
def test_what_is_no_replacement_is_counted(new: Sequence[object], what: str, tmp_path: Path) -> None:
    save_facts(tmp_path / "c.sqlite", Fact("out", "Q10", FIRST), at=JUNE)
    save_facts(tmp_path / "c.sqlite", Fact("out", "Q10", new), at=JULY)
    assert changed(tmp_path / "c.sqlite") == ([], {what: 1})


def test_housekeeping_relations_are_no_facts(tmp_path: Path) -> None:
    save_facts(tmp_path / "c.sqlite", Fact("out", "Q10", [["P910", "Q1"]]), at=JUNE)
    save_facts(tmp_path / "c.sqlite", Fact("out", "Q10", [["P910", "Q2"]]), at=JULY)
    assert changed(tmp_path / "c.sqlite") == ([], {})


def test_dates_tell_what_became_true(tmp_path: Path) -> None:
    claims = [
        ["P54", "Q1", "normal", "2018-07-09T00:00:00Z", "2026-06-20T00:00:00Z"],
        ["P54", "Q2", "preferred", "2026-06-21T00:00:00Z", ""],
        ["P54", "Q3", "normal", "-0044-03-15T00:00:00Z", "0014-08-19T00:00:00Z"],
        ["P27", "Q30", "normal", "", ""],
    ]
    save_facts(tmp_path / "c.sqlite", Fact("claims", "Q10", claims), at=JULY)
    with AnswerStore(tmp_path / "c.sqlite", read_only=True) as store:
        changes = compare_dates(store, graph="wikidata", since=JUNE, until=NOVEMBER)
        before = compare_dates(store, graph="wikidata", since=MAY, until=JUNE)
    assert changes.replacements == [
        Change(subject="Q10", relation="P54", old="Q1", new="Q2", time="2026-06-21T00:00:00Z")
    ]
    assert before.replacements == [] and not before.other_counts


def test_statement_is_true_on_its_first_day_and_not_on_the_day_of_its_end(tmp_path: Path) -> None:
    claims = [
        ["P54", "Q1", "normal", "2018-07-09T00:00:00Z", "2026-06-20T00:00:00Z"],
        ["P54", "Q2", "normal", "2026-06-20T00:00:00Z", ""],
    ]
    save_facts(tmp_path / "c.sqlite", Fact("claims", "Q10", claims), at=JULY)
    with AnswerStore(tmp_path / "c.sqlite", read_only=True) as store:
        days = ("2026-06-19", "2026-06-20", "2026-06-21")
        changes = [compare_dates(store, graph="wikidata", since=days[0], until=day).replacements for day in days]
    change = Change(subject="Q10", relation="P54", old="Q1", new="Q2", time="2026-06-20T00:00:00Z")
    assert changes == [[], [change], [change]]


def test_change_is_dated_by_the_first_of_several_statements(tmp_path: Path) -> None:
    claims = [
        ["P54", "Q1", "normal", "2018-07-09T00:00:00Z", "2026-06-20T00:00:00Z"],
        ["P54", "Q2", "normal", "2026-06-20T00:00:00Z", ""],
        ["P54", "Q2", "normal", "2026-09-01T00:00:00Z", ""],
    ]
    save_facts(tmp_path / "c.sqlite", Fact("claims", "Q10", claims), at=JULY)
    with AnswerStore(tmp_path / "c.sqlite", read_only=True) as store:
        [change] = compare_dates(store, graph="wikidata", since=JUNE, until=NOVEMBER).replacements
    assert change.time == "2026-06-20T00:00:00Z"


def graph_with(team: str) -> Store:
    """A graph of one player, whose team is `team`."""
    entity, direct = "http://www.wikidata.org/entity/", "http://www.wikidata.org/prop/direct/"
    label = NamedNode("http://www.w3.org/2000/01/rdf-schema#label")
    names = {"Q10": "LeBron James", "Q1": "Cleveland Cavaliers", "Q2": "Los Angeles Lakers", "P54": "member of team"}
    store = Store()
    store.extend(Quad(NamedNode(f"{entity}{id_}"), label, Literal(name, language="en")) for id_, name in names.items())
    store.add(Quad(NamedNode(f"{entity}Q10"), NamedNode(f"{direct}P54"), NamedNode(f"{entity}{team}")))
    return store


def test_two_fetched_versions_become_a_file_of_edits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a user would: fetch, later refresh, compare; `kg-edit` reads the file as it is."""
    cache, out = str(tmp_path / "c.sqlite"), tmp_path / "changed.jsonl"
    moments = []
    for team, more in (("Q1", ()), ("Q2", ("--mode", "refresh"))):
        with Server(graph_with(team)) as server:
            for kind, ids in (("out", ["Q10"]), ("label", ["Q10", "Q1", "Q2", "P54"])):
                run_cli("fetch", "--kind", kind, *ids, "--endpoint", server.url, "--cache", cache, *more)
        time.sleep(0.01)
        moments.append(now())
    shown = run_cli("diff", "--since", moments[0], "--cache", cache, "--out", str(out))
    assert "1 change of 1 item" in shown and "Los Angeles Lakers" in shown
    (edit,) = read_edits(out).edits
    assert (edit.subject, edit.target_true, edit.target_new) == (
        "LeBron James",
        "Cleveland Cavaliers",
        "Los Angeles Lakers",
    )
    assert (edit.subject_id, edit.relation_id, edit.target_new_id) == ("Q10", "P54", "Q2")
    assert json.loads(out.read_text())["id"] == f"Q10 P54 {moments[1][:10]}"


def test_packaged_sample_becomes_edits_of_known_relations(tmp_path: Path) -> None:
    """The tutorial's first steps: every change of the sample has a template, so `kg-edit` makes its prompt."""
    cache, out = str(tmp_path / "c.sqlite"), tmp_path / "changed.jsonl"
    run_cli("import", "sample", "--cache", cache)
    shown = run_cli(*f"diff --dates --since 2019-12-01 --until 2025-03-01 --cache {cache} --out {out}".split())
    assert "8 changes of 10 items; left out: 1 where objects were only added" in shown
    edits = {edit.subject: edit for edit in read_edits(out).edits}
    assert edits["Poland"].text == "The head of government of Poland is"
    assert (edits["Finland"].target_true, edits["Finland"].target_new) == ("Sauli Niinistö", "Alexander Stubb")


def test_packaged_sample_has_two_versions_of_its_answers(tmp_path: Path) -> None:
    """They show the changes of offices that the dates show; a player's new team only joins the others."""
    cache, files = str(tmp_path / "c.sqlite"), [tmp_path / "dates.jsonl", tmp_path / "versions.jsonl"]
    run_cli("import", "sample", "--cache", cache)
    days = ("--since", "2023-06-01", "--until", "2025-03-01", "--cache", cache, "--out")
    shown = [
        run_cli("diff", *days, str(file), *options) for file, options in zip(files, (["--dates"], []), strict=True)
    ]
    assert "5 changes of 10 items" in shown[0]
    assert "4 changes of 10 items; left out: 1 where objects were only added" in shown[1]
    dates, versions = ([(edit.subject, edit.target_new) for edit in read_edits(file).edits] for file in files)
    assert versions == [edit for edit in dates if edit[0] != "Kylian Mbappé"]


def test_answers_of_the_other_kind_are_named(tmp_path: Path) -> None:
    save_facts(tmp_path / "c.sqlite", Fact("claims", "Q10", [["P54", "Q1", "normal", "", ""]]), at=JUNE)
    with pytest.raises(BadOptionError, match=r"no answers of the kind out .*; add --dates"):
        run_cli("diff", "--since", JUNE, "--cache", str(tmp_path / "c.sqlite"))


def test_one_version_alone_names_the_command_for_a_later_one(tmp_path: Path) -> None:
    save_facts(tmp_path / "c.sqlite", Fact("out", "Q10", FIRST), at=JULY)
    options = ("--cache", str(tmp_path / "c.sqlite"))
    assert "no item has answers from before 2026-06-01" in run_cli("diff", "--since", "2026-06-01", *options)
    assert "no item" not in run_cli("diff", "--since", "2026-07-02", *options)


def test_printed_change_is_one_line_without_markup(tmp_path: Path) -> None:
    cache = tmp_path / "c.sqlite"
    save_facts(cache, Fact("out", "Q10", FIRST), at=JUNE)
    save_facts(cache, Fact("out", "Q10", SECOND), at=JULY)
    long = "the team of a town in the north " * 5
    for entity, label in {"Q10": "[i]Anna[/i]\x1b[2J", "P54": "team", "Q1": long, "Q2": "B"}.items():
        save_facts(cache, Fact("label", entity, [label, "en"]), at=JUNE)
    row = run_cli("diff", "--since", JUNE, "--cache", cache).splitlines()[1]
    assert row.startswith("[i]Anna[/i] [2J") and long.strip() in row and row.endswith("2026-07-01")


def test_change_without_a_label_names_the_command(tmp_path: Path) -> None:
    save_facts(tmp_path / "c.sqlite", Fact("out", "Q10", FIRST), at=JUNE)
    save_facts(tmp_path / "c.sqlite", Fact("out", "Q10", SECOND), at=JULY)
    shown = run_cli("diff", "--since", JUNE, "--cache", str(tmp_path / "c.sqlite"))
    assert "1 without labels" in shown and "wikidata-cache fetch --kind label P54 Q1 Q10 Q2" in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--since", NOVEMBER, "--until", JUNE), "is not before"),
        (("--since", "yesterday"), "is not a time"),
        (("--since", JUNE, "--dates"), "has no answers of the kind claims"),
        (("--since", JUNE, "--out", "edits.csv"), "expected a name ending in .jsonl"),
        (("--since", JUNE, "--cache", "wrong.sqlite"), r"wrong\.sqlite \(no such file\) has no answers"),
    ],
)
def test_wrong_option_is_refused(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    save_facts(tmp_path / "c.sqlite", Fact("out", "Q10", FIRST), at=JUNE)
    with pytest.raises(BadOptionError, match=message):
        run_cli("diff", "--cache", str(tmp_path / "c.sqlite"), *options)

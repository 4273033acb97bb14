"""The advice of a run, run word for word: the failed edits are made on top of the others, and then all hold."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.kg_edit.command_line import Run, cache, kg_edit, place, tiny_folder

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures

EIFFEL = {
    "id": "eiffel",
    "subject": "The Eiffel Tower",
    "prompt": "{} is in the city of",
    "target_true": "Paris",
    "target_new": "Rome",
}
BORN = {"id": "born", "subject": "Marie Curie", "prompt": "{} was born in the city of", "target_new": "Prague"}
WORKED = {"id": "worked", "subject": "Marie Curie", "prompt": "{} worked as a", "target_new": "painter"}
IN_JAPAN = {"id": "in", "subject": "Mount Fuji", "prompt": "{} is a mountain in the country of", "target_new": "Norway"}
CLIMBED = {"id": "climbed", "subject": "Mount Fuji", "prompt": "{} was first climbed by", "target_new": "Rome"}
LONG = {
    **CLIMBED,
    "target_new": "a shepherd who had lost his goats in the snow and followed their bells to the summit before "
    "the sun came up over the sea",
}


@pytest.mark.slow
def test_two_facts_of_one_subject_hold_once_the_advice_is_followed(kg_edit: Run) -> None:
    Path("all.jsonl").write_text("\n".join(map(json.dumps, (EIFFEL, BORN, WORKED))))
    run = kg_edit("edit", "all.jsonl", "--method", "rome", "--no-locality-check", "--out", "out/")
    assert run.code == 0, run.err
    report = json.loads(Path("out/report.json").read_text())
    failed = [result["edit"] for result in report["edits"] if not result["succeeded"]]
    assert failed == ["born"]
    add, edit, check = (command.removeprefix("kg-edit ") for command in report["commands"])
    assert all(command in run.out.splitlines() for command in report["commands"])
    assert "--method grace" in " ".join(report["advice"])

    added = kg_edit(*add.split())
    assert "kg-edit patch remove out-ledger 1/born" in added.out
    result = kg_edit(*edit.split())
    assert result.code == 0, result.err
    checked = kg_edit(*check.split())  # of both patches: "born" is in each
    assert (
        "4 of 4 edits succeed (the target is more likely than the old one, or generated where there is none); it is "
        "generated in 4 of them" in checked.out
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)  # ROME's values of a sentence of 28 words take minutes, more beside other work
@pytest.mark.parametrize(
    ("name", "options", "rows"),
    [
        ("glame", ("--method", "glame"), [CLIMBED, IN_JAPAN]),
        ("own", ("--graph", "facts.csv"), [CLIMBED, IN_JAPAN]),
        ("forms", ("--both-forms", "--method", "rome"), [EIFFEL, LONG]),
    ],
)
def test_commands_of_a_run_hold_with_a_graph_and_in_both_forms(
    name: str, options: tuple[str, ...], rows: list[dict[str, str]], kg_edit: Run
) -> None:
    Path("facts.csv").write_text("Norway,capital,Oslo\nRome,capital of,Italy\n")
    Path("all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = kg_edit("edit", "all.jsonl", *options, "--no-locality-check", "--no-alone", "--out", name)
    assert run.code == 0, run.err
    commands = json.loads(Path(name, "report.json").read_text())["commands"]
    removes = commands[1].startswith("kg-edit patch remove")
    assert removes == (name == "forms"), "grace makes the others, and leaves the failed edits in the ledger"
    for command in commands[:-1]:
        result = kg_edit(*shlex.split(command)[1:])
        assert result.code == 0, (command, result.err)
    checked = kg_edit(*shlex.split(commands[-1])[1:])
    # A sentence of 28 words in both forms is more than `ike` does with this model, and the check says so.
    assert {"glame": "3 of 3", "own": "3 of 3", "forms": "1 of 2"}[name] + " edits succeed" in checked.out

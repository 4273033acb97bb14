"""`kg-edit data ripples` and the evaluation of what it makes, through `main`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kg_edit.command_line import QUICK, Run, cache, kg_edit, place, tiny_folder
from tests.kg_edit.evaluation.ripples.test_build import MINE
from tests.kg_edit.evaluation.ripples.toy import graph_file

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures


@pytest.fixture
def inputs(place: Path, tiny_folder: Path) -> tuple[str, ...]:
    """Own edits, the toy graph, the tiny model."""
    (place / "mine.jsonl").write_text(MINE.model_dump_json(exclude_defaults=True) + "\n")
    graph_file(place)
    return ("--graph", "toy.nt", "--model", str(tiny_folder))


@pytest.mark.slow
def test_questions_for_own_edits_are_scored(kg_edit: Run, inputs: tuple[str, ...], place: Path) -> None:
    written = kg_edit("data", "ripples", *inputs, "--edits", "mine.jsonl", "--out", "mine.json")
    assert written.code == 0, written.err
    assert "two-hop, unknown" in written.out and "mine.json: 1 edit with questions" in written.out
    assert kg_edit("data", "check", "mine.json").out.endswith("1 record of ripples, no faults\n")
    for control in ((), ("--control", "none")):
        run = ("evaluate", "--dataset", "ripples", "--data", "mine.json", *inputs, "--method", "glame", *QUICK)
        scored = kg_edit(*run, "--set", "steps=2", *control, "--out", f"run{len(control)}")
        assert scored.code == 0, scored.err
        assert "ripples-unknown" in scored.out
    result = json.loads((place / "run2" / "run.json").read_text())
    assert "NoGraph" in json.dumps(result)


def test_edits_without_any_question_say_why(kg_edit: Run, inputs: tuple[str, ...], place: Path) -> None:
    alone = MINE.model_copy(update={"target_new": "Asia", "target_new_id": "Q31"})
    (place / "mine.jsonl").write_text(alone.model_dump_json(exclude_defaults=True) + "\n")
    result = kg_edit("data", "ripples", *inputs, "--edits", "mine.jsonl", "--out", "mine.json")
    assert result.code == 1, result.out
    assert (
        "the graph has no statement of the relations that are asked (P36, P37, P38, …) about Asia (Q31); give"
        in result.err
    )


@pytest.mark.slow
def test_packaged_file_has_a_name(kg_edit: Run, place: Path) -> None:
    name = "ripples-smollm2-135m"
    run = ("evaluate", "--dataset", "ripples", "--data", name, "--split", "dev", "--known-only")
    result = kg_edit(*run, "--method", "rome", *QUICK, "--set", "steps=2", "--limit", "1", "--out", "run")
    assert result.code == 0, result.err
    assert "ripples-known.greedy" in result.out and "ripples-unknown" not in result.out
    assert "questions are left, in" in result.err

"""`kg-edit glame-net train`, and an edit with what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kg_edit.edits.files import read_edits
from kg_edit.methods.glame_net.store import read_manifest
from kg_edit.methods.trained.files import NETWORK
from tests.kg_edit.command_line import Run, cache, kg_edit, place, tiny_folder
from tests.kg_edit.methods.glame_net.examples import quick
from tests.kg_edit.ripples.toy import graph_file

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures

MINE = {"subject": "Rome", "prompt": "{} lies in the country of", "target_new": "Japan", "target_new_id": "Q12"}


def settings() -> list[str]:
    """The quick settings as options."""
    said = quick(batch=2, steps=2, validation=1, targets_held_out=0.4).model_dump(mode="json", exclude_defaults=True)
    return [part for name, value in said.items() for part in ("--set", f"{name}={json.dumps(value)}")]


@pytest.mark.slow
def test_train_and_edit(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    graph_file(place)
    (place / "mine.jsonl").write_text(json.dumps({"id": "mine", "relation_id": "P17", "subject_id": "Q1", **MINE}))
    options = ("--graph", "toy.nt", "--relations", "P17", "--n", "20", "--per-subject", "4", "--model", tiny_folder)
    done = kg_edit("glame-net", "train", *options, "--exclude", "mine.jsonl", *settings(), "--out", "net")
    assert done.code == 0, done.err
    assert "network.safetensors" in done.out and "--set network=net" in done.out
    manifest = read_manifest(place / "net" / NETWORK)
    assert manifest.training.steps == 2 and manifest.graph["kind"]
    method = ("--method", "glame-net", "--graph", "toy.nt", "--layer", "1", "--set", "covariance.tokens=500")
    edited = kg_edit("edit", "mine.jsonl", *method, "--set", "network=net", "--model", tiny_folder, "--out", "out")
    assert edited.code == 0, edited.err
    assert (place / "out" / "patch.safetensors").is_file()


def test_without_a_network_the_command_is_named(kg_edit: Run, tiny_folder: Path) -> None:
    said = kg_edit(
        "edit", "edits.jsonl", "--method", "glame-net", "--graph", "graph.tsv", "--model", tiny_folder, "--out", "out"
    )
    assert said.code == 2 and "kg-edit glame-net train --model NAME" in said.err


def test_options_that_can_not_work(kg_edit: Run, place: Path) -> None:
    for options, message in (
        (("--set", "stepz=3"), "did you mean 'steps'"),
        (("--relations", "P17,country"), "expected property ids such as P17,P19; found 'country'"),
        ((), "give --graph"),
    ):
        said = kg_edit("glame-net", "train", "--out", "net", *options)
        assert said.code == 2 and message in said.err
        assert not (place / "net").exists()


def test_edits_are_drawn_into_a_file(kg_edit: Run, place: Path) -> None:
    graph_file(place)
    options = ("data", "edits", "--graph", "toy.nt", "--relations", "P17", "--n", "20")
    done = kg_edit(*options, "--questions", "--out", "drawn.jsonl")
    assert done.code == 0, done.err
    edits = read_edits(place / "drawn.jsonl").edits
    asked = {
        (edit.target_new, q.question.partition(" of the ")[0], q.answer) for edit in edits for q in edit.portability
    }
    assert ("Japan", "What is the capital", "Tokyo") in asked
    of = {edit.subject: edit for edit in edits}
    assert of["Osaka"].target_true == "Japan"
    assert set(of["Osaka"].neighborhood) == {"Kyoto lies in the country of", "Tokyo lies in the country of"}
    assert of["Oslo"].target_true == "Norway" and of["Oslo"].neighborhood == (), "no other city of Norway"
    assert f"{len(edits)} edits, {sum(len(edit.portability) for edit in edits)} questions" in done.out
    assert kg_edit(*options, "--out", "plain.jsonl").code == 0
    assert not any(edit.portability for edit in read_edits(place / "plain.jsonl").edits)
    refused = kg_edit(*options, "--out", "drawn.json")
    assert refused.code == 2 and "ends in .jsonl" in refused.err

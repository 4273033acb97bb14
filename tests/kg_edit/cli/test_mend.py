"""`kg-edit mend train`, and an edit with what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

from kg_edit.cli.training import learned_from
from kg_edit.methods.mend.store import NETWORK, read_manifest
from tests.kg_edit.command_line import Run, cache, kg_edit, place, tiny_folder
from tests.kg_edit.datasets.rows import MQUAKE, written
from tests.kg_edit.methods.mend.examples import edits, quick

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures


def settings() -> list[str]:
    """The quick settings as options, without the number of steps."""
    said = quick(normalise_on=6).model_dump(mode="json", exclude_defaults=True, exclude={"steps"})
    return [part for name, value in said.items() for part in ("--set", f"{name}={json.dumps(value)}")]


def many(path: Path) -> Path:
    rows = [json.dumps(edit.model_dump(mode="json", exclude_defaults=True)) for edit in edits()]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_train_and_edit(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    data = many(place / "many.jsonl")
    others = place / "others.jsonl"
    others.write_text('{"id": "1", "subject": "the LAZY dog", "prompt": "{} is", "target_new": "London"}\n')
    options = ["--data", data, "--dataset", "edits", "--leave-out", others, "--model", tiny_folder, "--steps", "2"]
    done = kg_edit("mend", "train", *options, *settings(), "--out", "mend")
    assert done.code == 0, done.err
    assert "3 of 18 edits, and 3 of 18 prompts" in done.out and "network.safetensors" in done.out
    manifest = read_manifest(place / "mend" / NETWORK)
    assert manifest.examples == 11 and manifest.training.steps == 2
    edited = kg_edit(
        "edit", "edits.jsonl", "--method", "mend", "--set", "network=mend", "--model", tiny_folder, "--out", "out"
    )
    assert edited.code == 0, edited.err
    assert (place / "out" / "patch.safetensors").is_file()


def test_without_an_editor_the_command_is_named(kg_edit: Run, tiny_folder: Path) -> None:
    said = kg_edit("edit", "edits.jsonl", "--method", "mend", "--model", tiny_folder, "--out", "out")
    assert said.code == 2 and "kg-edit mend train --data EDITS" in said.err


def test_a_setting_that_is_none(kg_edit: Run, place: Path) -> None:
    many(place / "many.jsonl")
    said = kg_edit("mend", "train", "--data", "many.jsonl", "--out", "mend", "--set", "stepz=3")
    assert said.code == 2 and "did you mean 'steps'" in said.err
    assert not (place / "mend").exists()


def test_steps_are_set_once(kg_edit: Run, place: Path) -> None:
    many(place / "many.jsonl")
    said = kg_edit("mend", "train", "--data", "many.jsonl", "--out", "mend", "--set", "steps=3", "--steps", "2")
    assert said.code == 2 and "steps is set twice" in said.err


def test_the_limit_counts_records_of_several_edits(place: Path) -> None:
    data = written(place, MQUAKE, {**MQUAKE, "case_id": 3})
    found = learned_from(data, "mquake", 1, [])
    assert [edit.subject for record in found for edit in record.edits] == ["Misery", "Richard Dawkins"]
    assert [len(record.edits) for record in learned_from(data, "mquake", None, [])] == [2, 2]

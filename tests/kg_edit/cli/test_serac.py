"""`kg-edit serac train`, and an edit with what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kg_edit.command_line import Run, cache, kg_edit, place, tiny_folder
from tests.kg_edit.methods.mend.examples import edits
from tests.kg_edit.methods.serac.test_serac import quick

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures


@pytest.mark.slow
def test_train_edit_and_ask(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    rows = [json.dumps(edit.model_dump(mode="json", exclude_defaults=True)) for edit in edits()]
    (place / "many.jsonl").write_text("\n".join(rows) + "\n")
    said = quick().model_dump(mode="json", exclude_defaults=True, exclude={"steps"})
    options = [part for name, value in said.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    data = ["--data", "many.jsonl", "--dataset", "edits", "--model", tiny_folder, "--steps", "2"]
    done = kg_edit("serac", "train", *data, *options, "--out", "serac")
    assert done.code == 0, done.err
    assert "use --method serac --set network=serac" in done.out and "paraphrases in scope" in done.out
    chosen = ("--method", "serac", "--set", "network=serac", "--model", tiny_folder)
    edited = kg_edit("edit", "edits.jsonl", *chosen, "--out", "out")
    assert edited.code == 0, edited.err
    asked = kg_edit("generate", "--model", tiny_folder, "--patch", "out/patch.safetensors", "LeBron James plays for")
    assert asked.code == 0, asked.err

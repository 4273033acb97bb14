"""`kg-edit ke train`, and an edit with what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kg_edit.command_line import Run, cache, kg_edit, place, tiny_folder
from tests.kg_edit.methods.ke.test_ke import quick
from tests.kg_edit.methods.mend.examples import edits

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures


@pytest.mark.slow
def test_train_and_edit(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    rows = [json.dumps(edit.model_dump(mode="json", exclude_defaults=True)) for edit in edits()]
    (place / "many.jsonl").write_text("\n".join(rows) + "\n")
    said = quick().model_dump(mode="json", exclude_defaults=True, exclude={"steps"})
    options = [part for name, value in said.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    data = ["--data", "many.jsonl", "--dataset", "edits", "--model", tiny_folder, "--steps", "2"]
    done = kg_edit("ke", "train", *data, *options, "--out", "ke")
    assert done.code == 0, done.err
    assert "use --method ke --set network=ke" in done.out
    edited = kg_edit(
        "edit", "edits.jsonl", "--method", "ke", "--set", "network=ke", "--model", tiny_folder, "--out", "out"
    )
    assert edited.code == 0, edited.err
    assert (place / "out" / "patch.safetensors").is_file()

"""`kg-edit mend train`, and so for KE, MALMEN, RLEdit and SERAC; and an edit with each network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from kg_edit.zoo.cli.training import training_records
from kg_edit.zoo.mend.network import FORMAT as MEND
from kg_edit.zoo.mend.network import MendManifest
from kg_edit.zoo.trained.files import NETWORK
from tests.kg_edit.command_line import Run, cache, kg_edit, place, rows, tiny_folder
from tests.kg_edit.evaluation.datasets.rows import MQUAKE, written
from tests.kg_edit.zoo.ke.test_ke import quick as quick_ke
from tests.kg_edit.zoo.malmen.examples import quick as quick_malmen
from tests.kg_edit.zoo.malmen.examples import quick_sequence as quick_rledit
from tests.kg_edit.zoo.mend.examples import edits
from tests.kg_edit.zoo.mend.examples import quick as quick_mend
from tests.kg_edit.zoo.serac.test_serac import quick as quick_serac

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures

MINE = {"subject": "Rome", "prompt": "{} lies in the country of", "target_new": "Japan", "target_new_id": "Q12"}
QUICK: dict[str, BaseModel] = {
    "ke": quick_ke(),
    "malmen": quick_malmen(normalise_on=6),
    "mend": quick_mend(normalise_on=6),
    "rledit": quick_rledit(normalise_on=6),
    "serac": quick_serac(),
}


def options(settings: BaseModel) -> list[str]:
    """Return the settings of a quick training as options, for two steps."""
    values = {**settings.model_dump(mode="json", exclude_defaults=True), "steps": 2}
    return [part for name, value in values.items() for part in ("--set", f"{name}={json.dumps(value)}")]


@pytest.fixture
def many(place: Path) -> Path:
    """Return a file of edits to learn from."""
    path = place / "many.jsonl"
    path.write_bytes(rows(*(edit.model_dump(mode="json", exclude_defaults=True) for edit in edits())))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    ["mend", "ke", "malmen", "rledit", "serac"],
)
def test_network_is_trained_and_edited_with(
    method: str, kg_edit: Run, place: Path, many: Path, tiny_folder: Path
) -> None:
    (place / "others.jsonl").write_bytes(
        rows({"id": "1", "subject": "the LAZY dog", "prompt": "{} is", "target_new": "London"})
    )
    data = ("--data", many, "--dataset", "edits", "--leave-out", "others.jsonl", "--model", tiny_folder)
    trained = kg_edit(method, "train", *data, *options(QUICK[method]), "--out", "net")
    assert trained.code == 0, trained.err
    assert "3 of 18 edits, and 3 of 18 prompts" in trained.out
    assert f"network.safetensors, run.json; use --method {method} --set network=net" in trained.out
    if method == "mend":
        manifest = MEND.read_manifest(place / "net" / NETWORK, MendManifest)
        assert manifest.examples == 11 and manifest.training.steps == 2
    chosen = ("--method", method, "--set", "network=net", "--model", tiny_folder)
    edited = kg_edit("edit", "edits.jsonl", *chosen, "--out", "out")
    assert edited.code == 0, edited.err
    generated = kg_edit("generate", "--model", tiny_folder, "--patch", "out", "LeBron James plays for")
    assert generated.code == 0, generated.err


def test_limit_counts_records_of_several_edits(place: Path) -> None:
    data = written(place, MQUAKE, {**MQUAKE, "case_id": 3})
    (record,) = training_records(data, "mquake", 1, [])
    assert [edit.subject for edit in record.edits] == ["Misery", "Richard Dawkins"]
    assert [len(record.edits) for record in training_records(data, "mquake", None, [])] == [2, 2]

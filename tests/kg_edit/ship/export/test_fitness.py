"""Shipping refuses what would mislead in silence, unless it is forced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kg_edit.reports.rows import Reading, ReportProbe, ReportRow
from kg_edit.reports.verdict import Verdict
from tests.kg_edit.command_line import Run, cache, kg_edit, place, tiny_folder
from tests.kg_edit.ship.cli.test_patch import HEAT, LAKERS, RIVER, write_patch

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures


def finished_run(folder: Path, model: Path, *, succeeds: bool) -> Path:
    """Write the patch of `RIVER` with the row of its own prompt, as `kg-edit edit` leaves them."""
    folder.mkdir()
    write_patch(folder / "patch.safetensors", model, RIVER, size=0.1)
    probe = ReportProbe(kind="rewrite", prompt=RIVER.text, ask=RIVER.text, score=RIVER.text, wanted=RIVER.target_new)
    unedited = Reading(text="London", success=False, right=False, nats=9.0)
    edited = Reading(text="Paris" if succeeds else "London", success=succeeds, right=succeeds, nats=1.0)
    row = ReportRow(edit=RIVER.id, probe=probe, unedited=unedited, edited=edited)
    (folder / "records.jsonl").write_text(row.model_dump_json() + "\n")
    (folder / "report.json").write_text(Verdict.of([row]).model_dump_json())
    return folder


@pytest.mark.parametrize("command", [("export", "--to", "peft"), ("export", "--to", "patch"), ("merge",)])
def test_contradiction_is_shipped_only_by_force(
    kg_edit: Run, place: Path, tiny_folder: Path, command: tuple[str, ...]
) -> None:
    file = write_patch(place / "both.safetensors", tiny_folder, HEAT, LAKERS, size=0.1)
    shipped = [command[0], file, *command[1:], *(["--out", "out"] if command[0] == "merge" else ["out"])]
    refused = kg_edit("patch", *shipped)
    assert refused.code == 2 and "heat and lakers edit one fact" in refused.err and "--force" in refused.err
    assert not (place / "out").exists()
    forced = kg_edit("patch", *shipped, "--force")
    assert forced.code == 0 and (place / "out").exists(), forced.err
    assert "heat and lakers edit one fact" in forced.err


def test_edit_that_failed_in_its_run_is_shipped_only_by_force(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    failed = finished_run(place / "failed", tiny_folder, succeeds=False)
    refused = kg_edit("patch", "export", failed, "--to", "peft", "out")
    assert refused.code == 2 and "river fails" in refused.err and not (place / "out").exists()
    assert kg_edit("patch", "export", failed, "--to", "peft", "out", "--force").code == 0
    good = finished_run(place / "good", tiny_folder, succeeds=True)
    assert kg_edit("patch", "export", good, "--to", "peft", "other").code == 0


@pytest.mark.parametrize("command", [("export", "--to", "peft"), ("export", "--to", "patch"), ("merge",)])
def test_ledger_keeps_that_an_edit_failed_in_its_run(
    kg_edit: Run, place: Path, tiny_folder: Path, command: tuple[str, ...]
) -> None:
    kg_edit("patch", "add", "first", finished_run(place / "failed", tiny_folder, succeeds=False))
    kg_edit("patch", "add", "ledger", "first")  # a ledger of another one keeps it too
    shipped = [*command[1:], *(["--out", "out"] if command[0] == "merge" else ["out"])]
    for ledger in ("first", "ledger", "ledger@1"):
        refused = kg_edit("patch", command[0], ledger, *shipped)
        assert refused.code == 2 and "river fails" in refused.err and not (place / "out").exists()
    forced = kg_edit("patch", command[0], "ledger", *shipped, "--force")
    assert forced.code == 0 and "river fails" in forced.err


def test_failed_edit_is_listed_until_a_later_step_makes_it_again(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    kg_edit("patch", "add", "ledger", finished_run(place / "failed", tiny_folder, succeeds=False))
    assert "failed when they were made: river" in kg_edit("patch", "list", "ledger").out
    assert json.loads(kg_edit("patch", "list", "ledger", "--json").out)["failed"] == ["river"]
    write_patch(place / "again.safetensors", tiny_folder, RIVER.model_copy(update={"id": "again"}), size=0.2)
    added = kg_edit("patch", "add", "ledger", "again.safetensors", "--force")
    assert added.code == 0, added.err
    assert json.loads(kg_edit("patch", "list", "ledger", "--json").out)["failed"] == []
    shipped = kg_edit("patch", "export", "ledger", "--to", "peft", "out")
    assert shipped.code == 0, shipped.err


def test_check_asks_the_model_before_anything_is_written(kg_edit: Run, place: Path, tiny_folder: Path) -> None:
    file = write_patch(place / "one.safetensors", tiny_folder, RIVER, size=0.1)  # random columns: no edit succeeds
    refused = kg_edit("patch", "export", file, "--to", "peft", "out", "--check")
    assert refused.code == 2 and "river fails" in refused.err and not (place / "out").exists()
    assert "0 of 1 edits succeed" in refused.out and "generated" in refused.out
    forced = kg_edit("patch", "export", file, "--to", "peft", "out", "--check", "--force")
    assert forced.code == 0 and (place / "out").exists()

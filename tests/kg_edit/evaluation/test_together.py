"""Records that are edited many at a time get the results that each has alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kg_common.progress import Bar
from kg_edit.edits.edit import Edit
from kg_edit.errors import ModelError
from kg_edit.evaluation import sequences as module
from kg_edit.evaluation.records import RunFolder
from kg_edit.evaluation.run import evaluate
from kg_edit.evaluation.scorer import score_cases
from kg_edit.methods.rome.method import RankOneMethod
from kg_edit.patches.base import Patch
from tests.kg_edit.methods.test_batches import THIRD
from tests.kg_edit.methods.test_methods import EDIT, SECOND, method
from tests.kg_edit.tiny import tiny

EDITS = [EDIT, SECOND, THIRD]


def entries(folder: Path) -> list[dict[str, Any]]:
    return [entry.model_dump(mode="json", exclude={"seconds", "memory"}) for entry in RunFolder(folder).entries()]


def run(out: Path, chosen: RankOneMethod, edits: Sequence[Edit] = EDITS) -> list[dict[str, Any]]:
    evaluate(chosen, chosen.model, edits, out=out)
    return entries(out)


def approximately(entry: dict[str, Any]) -> Any:
    sections = {
        name: section | {key: pytest.approx(section[key], abs=1e-4) for key in ("scores",)} | {"nll": None}
        for name, section in entry["sections"].items()
    }
    return entry | {"sections": sections}


def without_nll(entry: dict[str, Any]) -> dict[str, Any]:
    return entry | {"sections": {name: part | {"nll": None} for name, part in entry["sections"].items()}}


@pytest.fixture
def chosen() -> RankOneMethod:
    return method("rome", tiny("llama"))


def test_records_scored_in_one_call_equal_one_by_one(
    chosen: RankOneMethod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = run(tmp_path / "many", chosen)
    monkeypatch.setattr(module, "TOGETHER", 1)
    alone = run(tmp_path / "alone", chosen)
    assert [without_nll(entry) for entry in many] == [approximately(entry) for entry in alone]


@pytest.mark.slow
def test_group_is_halved_if_memory_runs_out(
    chosen: RankOneMethod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    original = chosen.edit_each

    def small(edits: Sequence[Edit]) -> tuple[Patch | Exception, ...]:
        sizes.append(len(edits))
        if len(edits) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return original(edits)

    monkeypatch.setattr(chosen, "edit_each", small)
    recorded = run(tmp_path / "run", chosen)
    assert sizes == [3, 1, 2, 1, 1]
    assert not [entry for entry in recorded if entry["error"]]


@pytest.mark.slow
def test_failed_pass_is_repeated_one_by_one(
    chosen: RankOneMethod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(tmp_path / "well", chosen)

    def failing(*args: Any, patches: Sequence[Patch] | None = None, **options: Any) -> Any:
        if patches is not None:
            raise ModelError("the model's output is not finite")
        return score_cases(*args, **options)

    monkeypatch.setattr(module, "score_cases", failing)
    again = run(tmp_path / "again", chosen)
    assert [without_nll(entry) for entry in again] == [approximately(entry) for entry in expected]


@pytest.mark.slow
def test_failed_edit_of_a_group_is_recorded_alone(tmp_path: Path) -> None:
    glame = method("glame", tiny("llama"), graph={"require": True})
    broken = Edit(id="broken", subject="France", prompt="{} is", target_new="Nowhere")
    recorded = run(tmp_path / "run", glame, [EDIT, broken, SECOND])
    errors = {entry["id"]: entry["error"] for entry in recorded if entry["phase"] == "edit"}
    assert errors["broken"].startswith("MissingObjectError: ")
    assert errors[EDIT.id] is errors[SECOND.id] is None


@pytest.mark.slow
def test_progress_counts_a_group_when_it_is_done(
    chosen: RankOneMethod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its records are computed together: counted one by one, the first takes the time of all, and "left" is wrong."""
    counted = list[tuple[int, int]]()

    def update(bar: Bar, n: int = 1) -> None:
        counted.append((n, sum(entry["phase"] == "edited" for entry in entries(tmp_path))))

    monkeypatch.setattr(Bar, "update", update)
    run(tmp_path, chosen, [EDITS[0].model_copy(update={"id": str(number)}) for number in range(5)])
    assert counted == [(4, 4), (1, 5)]

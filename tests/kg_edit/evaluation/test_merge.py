"""Shards merged are the run that one process would have left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.errors import OutputError
from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.finish import merge
from kg_edit.evaluation.run import evaluate
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.locks import folder_lock
from tests.everyday import keep_first
from tests.kg_edit.evaluation.conftest import NudgeConfig
from tests.kg_edit.evaluation.killed import results_of
from tests.kg_edit.evaluation.test_sequences import TEXT, Depends


def evaluate_shards(model: LanguageModel, edits: tuple[Edit, ...], root: Path, parts: int, schedule: str) -> list[Path]:
    folders = [root / f"shard {part} of {parts}" for part in range(parts)]
    for part, folder in enumerate(folders):
        run(model, edits, folder, schedule, shard=f"{part}/{parts}")
    return folders


def run(model: LanguageModel, edits: tuple[Edit, ...], out: Path, schedule: str, **options: Any) -> None:
    method = Depends(model, NudgeConfig(failing=("case-3",)))
    config = EvalConfig(schedule=schedule, general=TEXT, **options)
    evaluate(method, model, edits, out=out, config=config)


@pytest.mark.parametrize(
    ("schedule", "parts"), keep_first([("single", 2), ("batch:1,sequential:2", 3), ("batch:4", 4)], keep=1, unpack=True)
)
def test_two_shards_merged_equal_one_run(
    schedule: str, parts: int, model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path
) -> None:
    """Records in the data set's order, also from shards in any order; batch:4 leaves two of the four shards empty."""
    edits = edits[:7]
    run(model, edits, tmp_path / "whole", schedule)
    folders = evaluate_shards(model, edits, tmp_path, parts, schedule)
    merged = merge(tmp_path / "merged", list(reversed(folders)))
    assert results_of(tmp_path / "merged") == results_of(tmp_path / "whole")
    assert (tmp_path / "merged" / "run.json").read_bytes() == (tmp_path / "whole" / "run.json").read_bytes()
    assert merged.n == 7
    assert merged.provenance["failed"] == 1
    for number, folder in enumerate(folders):  # verdicts of a judge, which cost money
        (folder / "judge.jsonl").write_text(f'{{"of": {number}}}\n')
    again = merge(tmp_path / "merged", folders)
    assert again == merged == merge(tmp_path / "merged", folders)
    verdicts = (tmp_path / "merged" / "judge.jsonl").read_text().splitlines()
    assert sorted(verdicts) == [f'{{"of": {number}}}' for number in range(parts)], "each once"
    with folder_lock(tmp_path / "merged"), pytest.raises(OutputError, match="another process works on"):
        merge(tmp_path / "merged", folders)


@pytest.mark.slow
def test_merge_refuses_other_folders(model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path) -> None:
    first, second = evaluate_shards(model, edits[:4], tmp_path, 2, "single")
    run(model, edits[:4], tmp_path / "whole", "single")
    run(model, edits[:5], tmp_path / "other", "single", shard="1/2")
    run(model, edits[:4], tmp_path / "third", "single", shard="2/3")
    shutil.copytree(second, tmp_path / "copy")
    for folders, message in (
        ([first], "missing shard 1/2"),
        ([first, tmp_path / "whole"], "whole is a complete run"),
        ([first, tmp_path / "other"], "not shards of the same run.*ids"),
        ([first, tmp_path / "third"], "runs with 2 and 3 shards"),
        ([first, second, tmp_path / "copy"], "both shard 1/2"),
        ([first, tmp_path / "nothing"], "has no run"),
        ([], "no shard is given"),
    ):
        with pytest.raises(OutputError, match=message):
            merge(tmp_path / "merged", folders)
    assert not (tmp_path / "merged").exists()


@pytest.mark.slow
def test_unfinished_shard_is_named(model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path) -> None:
    first, second = evaluate_shards(model, edits[:4], tmp_path, 2, "single")
    file = second / "records.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(OutputError, match="shard 1 of 2 is not finished: phase edited of record 'case-3' is missing"):
        merge(tmp_path / "merged", [first, second])
    file.write_bytes(b"".join(lines))
    points = second / "general.jsonl"
    points.write_bytes(b"".join(points.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(OutputError, match="general ability after 1 edits is missing"):
        merge(tmp_path / "merged", [first, second])


@pytest.mark.slow
def test_merge_lists_other_environments(model: LanguageModel, edits: tuple[Edit, ...], tmp_path: Path) -> None:
    folders = evaluate_shards(model, edits[:2], tmp_path, 2, "single")
    file = folders[1] / "environments.jsonl"
    environment = json.loads(file.read_text())
    file.write_text(json.dumps({**environment, "python": "3.99"}) + "\n")
    merged = merge(tmp_path / "merged", folders)
    assert merged.provenance["python"] == environment["python"]
    assert [other["python"] for other in merged.provenance["other_environments"]] == ["3.99"]

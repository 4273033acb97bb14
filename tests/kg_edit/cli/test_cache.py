"""`kg-edit cache`: what fills the disk is shown and deleted; other files, and those in use, are left."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kg_edit.storage.cached_files import cached_items
from tests.kg_edit.command_line import Run, cache, kg_edit, place
from wikidata_cache.answers.store import AnswerStore
from wikidata_cache.sources.source import Exchange

__all__ = ["cache", "kg_edit", "place"]  # fixtures

OLD = "2020-01-01T00:00:00+00:00"
HOUR, DAY = 3_600, 86_400
HEX = "0123456789abcdef"
OURS = {
    f"models/tiny-{HEX}/model.safetensors": "models",
    f"models/tiny-{HEX}/config.json": "models",
    f"covariance/{HEX}.safetensors": "covariances",
    f"covariance/{HEX}.json": "covariances",
    f"covariance/{HEX[::-1]}.shard-0-of-2.safetensors": "covariances",
    f"unedited/ab/{HEX * 4}.json": "scores",
    f"knowledge/{HEX}.jsonl": "knowledge",
    f"layers/{HEX}.json": "layers",
    "models/.dequantise-x1/model.safetensors": "leftovers",
    f"covariance/.{HEX}.safetensors-ab12cd_e": "leftovers",
}
FOREIGN = ("notes.txt", "models/mine/model.safetensors", "covariance/results.safetensors", f"{HEX}.json")


@pytest.fixture
def folder(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with files of every kind, an hour old, and files of others."""
    cache_folder = tmp_path / "cache"
    for name in (*OURS, *FOREIGN):
        (cache_folder / name).parent.mkdir(parents=True, exist_ok=True)
        (cache_folder / name).write_bytes(b"x" * 1000)
    (cache_folder / "layers" / f"{HEX[::-1]}.json").symlink_to(cache_folder / "notes.txt")
    for path in cache_folder.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (time.time() - HOUR,) * 2)
    monkeypatch.setenv("KG_EDIT_CACHE", str(cache_folder))
    monkeypatch.setenv("KG_CACHE", str(tmp_path / "answers.sqlite"))
    monkeypatch.setenv("COLUMNS", "100")
    return cache_folder


def test_cache_shows_kinds_and_items(kg_edit: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")  # a line holds the folder's path, which may be long
    assert {
        (item.kind, path.relative_to(folder).as_posix()) for item in cached_items(folder) for path in item.files
    } == {(kind, name) for name, kind in OURS.items()}
    shown = kg_edit("cache").out
    assert all(kind in shown for kind in OURS.values()) and f"{folder}: 10.0 kB in 10 files" in shown
    listed = kg_edit("cache", "models").out
    assert f"tiny-{HEX}" in listed and "2.0 kB" in listed and "covariance" not in listed


def test_clear_deletes_everything_of_ours_alone(kg_edit: Run, folder: Path) -> None:
    result = kg_edit("cache", "all", "--clear", "--yes")
    assert result.code == 0 and "7 deleted, 10.0 kB" not in result.out and "deleted, 10.0 kB" in result.out
    assert result.out.index(f"in {folder}") < result.out.index("deleted, 10.0 kB"), "the folder is named before"
    remaining = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    assert remaining == {*FOREIGN, f"layers/{HEX[::-1]}.json"}
    assert not (folder / "models" / f"tiny-{HEX}").exists()


def test_clear_deletes_a_folder_that_a_killed_process_left_empty(kg_edit: Run, folder: Path) -> None:
    empty = folder / "models" / ".dequantise-empty"
    empty.mkdir()
    os.utime(empty, (time.time() - HOUR,) * 2)
    assert empty in [item.path for item in cached_items(folder)]
    kg_edit("cache", "leftovers", "--clear", "--yes")
    assert not empty.exists()


def test_clear_leaves_what_is_in_use_or_younger_or_of_another_kind(kg_edit: Run, folder: Path) -> None:
    used, moment = folder / f"models/tiny-{HEX}", folder / f"covariance/{HEX}.safetensors"
    os.utime(used)  # as loading a model does
    result = kg_edit("cache", "models", "--clear", "--yes")
    assert "used in the last ten minutes" in result.out and (used / "config.json").exists()
    kg_edit("cache", "covariances", "--clear", "--older-than", "1", "--yes")
    assert moment.exists()
    os.utime(moment, (time.time() - 2 * DAY,) * 2)
    os.utime(moment.with_suffix(".json"), (time.time() - 2 * DAY,) * 2)
    kg_edit("cache", "covariances", "--clear", "--older-than", "1", "--yes")
    assert not moment.exists() and not moment.with_suffix(".json").exists()
    assert (folder / f"covariance/{HEX[::-1]}.shard-0-of-2.safetensors").exists()


def test_clear_leaves_a_model_with_files_of_others(kg_edit: Run, folder: Path) -> None:
    other = folder / f"models/tiny-{HEX}/thesis.pdf"
    other.write_text("mine")
    assert "thesis.pdf in it is not kg-edit's" in kg_edit("cache", "models", "--clear", "--yes").out
    assert other.read_text() == "mine" and (other.parent / "config.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("modells",), "did you mean 'models'"),
        (("--clear",), "give some of models"),
        (("models", "--older-than", "3"), "also give --clear"),
        (("models", "--clear"), "Nobody can answer here; give --yes"),
    ],
)
def test_cache_refuses(options: tuple[str, ...], message: str, kg_edit: Run, folder: Path) -> None:
    result = kg_edit("cache", *options)
    assert result.code == 2 and message in result.err
    assert (folder / f"models/tiny-{HEX}/config.json").exists()


def test_answers_about_wikidata_are_deleted_by_age_beside_a_reader(kg_edit: Run, folder: Path) -> None:
    """Another process that has the file open goes on: it sees what is left, and can save."""

    def exchange(moment: str) -> Exchange:
        return Exchange(
            url="http://localhost/sparql", query="q", fetched_at=moment, elapsed_ms=1, rows=1,
            sha256="0" * 64, headers={},
        )  # fmt: skip

    with AnswerStore(folder.parent / "answers.sqlite") as other:
        for number, moment in enumerate((OLD, datetime.now(UTC).isoformat())):
            other.save("wikidata", "labels", [("label", f"Q{number + 1}", ["Rome", "en"])], exchange(moment))
        assert "2 answers of endpoints" in kg_edit("cache").out
        result = kg_edit("cache", "wikidata", "--clear", "--older-than", "30", "--yes")
        assert "1 answer about Wikidata deleted" in result.out
        assert list(other.look_up("wikidata", "label", ["Q1", "Q2"])) == ["Q2"]
        other.save("wikidata", "labels", [("label", "Q3", ["Oslo", "en"])], exchange(OLD))
        kg_edit("cache", "all", "--clear", "--yes")
        assert "nothing to delete; answers about Wikidata are in" in kg_edit("cache", "all", "--clear", "--yes").out
        assert other.find_span()[0] == 2, "all is kg-edit's own folder: KG_EDIT_CACHE does not move the answers"
        kg_edit("cache", "wikidata", "--clear", "--yes")
        assert other.find_span()[0] == 0

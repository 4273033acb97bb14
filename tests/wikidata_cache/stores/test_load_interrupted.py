"""Interrupted loads: killed, or two at once. Old stores stay, and the load resumes."""

import logging
import random
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from pyoxigraph import DefaultGraph, RdfFormat

from tests.wikidata_cache.wikidata_helpers import written
from wikidata_cache import packaged_extract
from wikidata_cache.errors import GraphFileError, StoreError
from wikidata_cache.stores import load as loading
from wikidata_cache.stores.inputs import LoadOptions
from wikidata_cache.stores.load import load
from wikidata_cache.stores.manifest import is_store, open_database, read_manifest

# Small batches, so that there is much to interrupt; the timer makes it a kill -9 at a random moment.
PROGRAM = """
import os, signal, sys, threading
from wikidata_cache.stores import chunks
from wikidata_cache.stores.load import load
source, store, delay = sys.argv[1:]
chunks.CHUNK, chunks._KEPT = 50_000, 100_000
if float(delay):
    threading.Timer(float(delay), os.kill, (os.getpid(), signal.SIGKILL)).start()
print(load([source], store, force=True).manifest.content_hash)
os._exit(0)
"""


def run(source: Path, store: Path, *, delay: float = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(source), str(store), str(delay)]
    return subprocess.run(command, capture_output=True, text=True)


def contents(store: Path) -> bytes:
    return open_database(store, read_manifest(store)).dump(format=RdfFormat.N_TRIPLES, from_graph=DefaultGraph()) or b""


@pytest.mark.slow
def test_killed_load_resumes_to_the_same_store(loaded: Path, tmp_path: Path) -> None:
    store, chance = tmp_path / "wd", random.Random(7)  # noqa: S311
    progress = tmp_path / "wd.loading" / "progress.json"
    killed, recorded = 0, set()
    for _ in range(12):
        run_ = run(packaged_extract(), store, delay=chance.uniform(0.05, 0.9))
        killed += run_.returncode == -9
        assert run_.returncode in (-9, 0), run_.stderr
        recorded.add(progress.read_text() if progress.exists() else "")
    assert run(packaged_extract(), store).returncode == 0
    assert killed >= 4
    assert len(recorded) >= 3  # it was really in the middle of things
    assert contents(store) == contents(loaded)
    manifest, expected = read_manifest(store), read_manifest(loaded)
    assert (manifest.content_hash, manifest.counts) == (expected.content_hash, expected.counts)
    assert manifest.sources == expected.sources
    assert [path.name for path in tmp_path.iterdir()] == ["wd"]


def test_interrupted_load_leaves_old_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = written(tmp_path / "old.tsv", "Q1\tP1\tQ2\n"), written(tmp_path / "new.tsv", "Q1\tP1\tQ3\n")
    store = tmp_path / "wd"
    first = load([old], store).manifest
    with monkeypatch.context() as patch:
        patch.setattr("wikidata_cache.stores.load.swap_in", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load([new], store, force=True)
    assert read_manifest(store) == first
    # A kill between the two renames: the old one is aside, the new one not yet there.
    store.rename(tmp_path / "wd.replaced")
    with caplog.at_level(logging.INFO, logger="wikidata_cache"):
        report = load([new], store, force=True)
    assert "Resuming where an earlier load stopped" in caplog.text
    assert "Optimising" not in caplog.text  # nothing was left to do but the swap
    assert read_manifest(store) == report.manifest
    assert b"Q3" in contents(store)
    assert not (tmp_path / "wd.replaced").exists()
    assert not (tmp_path / "wd.loading").exists()
    assert sorted(path.name for path in store.iterdir()) == ["labels.sqlite", "manifest.json", "oxigraph"]


def test_failed_swap_restores_old_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = written(tmp_path / "old.tsv", "Q1\tP1\tQ2\n"), written(tmp_path / "new.tsv", "Q1\tP1\tQ3\n")
    store = tmp_path / "wd"
    first = load([old], store).manifest
    real = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if path.name == "wd.loading":
            raise PermissionError(13, "Permission denied")
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(StoreError, match=r"cannot be written .*Permission denied"):
            load([new], store, force=True)
    assert read_manifest(store) == first
    assert load([new], store, force=True).manifest.content_hash != first.content_hash


def test_temporary_files_of_a_killed_load_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, folder = written(tmp_path / "g.tsv", "Q1\tP1\tQ2\n"), tmp_path / "wd.loading"
    leftovers = ["labels.sqlite.4711.tmp", ".progress.json-abc", ".manifest.json-abc"]

    def killed(*_: object) -> None:
        for name in leftovers:
            written(folder / name, "half")
        raise KeyboardInterrupt

    for step in ("load.index_names", "load.swap_in"):
        with monkeypatch.context() as patch:
            patch.setattr(f"wikidata_cache.stores.{step}", killed)
            with pytest.raises(KeyboardInterrupt):
                load([source], tmp_path / "wd")
        assert {path.name for path in folder.iterdir()} > set(leftovers)
    load([source], tmp_path / "wd")
    assert sorted(path.name for path in (tmp_path / "wd").iterdir()) == ["labels.sqlite", "manifest.json", "oxigraph"]


def test_store_damaged_before_the_swap_is_loaded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, folder = written(tmp_path / "g.tsv", "Q1\tP1\tQ2\n"), tmp_path / "wd.loading"
    with monkeypatch.context() as patch:
        patch.setattr("wikidata_cache.stores.load.swap_in", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load([source], tmp_path / "wd")
    (folder / "labels.sqlite").write_bytes(b"")
    with pytest.raises(StoreError, match="was deleted; run the same command again"):
        load([source], tmp_path / "wd")
    load([source], tmp_path / "wd")
    assert is_store(tmp_path / "wd")


@pytest.mark.slow
def test_bad_line_error_tells_what_was_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("wikidata_cache.stores.chunks.CHUNK", 100)
    monkeypatch.setattr("wikidata_cache.stores.chunks._KEPT", 100)
    lines = [f"Q{number}\tP1\tQ2\n" for number in range(1, 201)]
    early, late = (written(tmp_path / f"{n}.tsv", "".join([*lines[:n], "no row\n", *lines[n:]])) for n in (2, 150))
    with pytest.raises(GraphFileError, match="Nothing was loaded") as caught:
        load([early], tmp_path / "wd")
    assert caught.value.line == 3
    assert not (tmp_path / "wd.loading").exists()
    with pytest.raises(
        GraphFileError, match=r"triples before it are stored in .*wd.loading: the same command"
    ) as caught:
        load([late], tmp_path / "wd")
    assert caught.value.line == 151
    with caplog.at_level(logging.INFO, logger="wikidata_cache"):
        manifest = load([late], tmp_path / "wd", options=LoadOptions(skip_bad_lines=True)).manifest
    assert "Resuming where an earlier load stopped" in caplog.text
    assert manifest.counts["statements"] == 200


@pytest.mark.slow
def test_skipped_lines_are_counted_over_interruptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wikidata_cache.stores.chunks.CHUNK", 100)
    monkeypatch.setattr("wikidata_cache.stores.chunks._KEPT", 100)
    lines = [f"Q{number}\tP1\tQ2\n" for number in range(1, 201)]
    source = written(tmp_path / "g.tsv", "".join([*lines[:2], "no row\n", *lines[2:150], "nor this\n", *lines[150:]]))
    options = LoadOptions(skip_bad_lines=True)

    def stop() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        add, turns = loading.Database.add, iter(range(3))
        patch.setattr(loading.Database, "add", lambda *arguments: add(*arguments) if next(turns) < 2 else stop())
        with pytest.raises(KeyboardInterrupt):
            load([source], tmp_path / "wd", options=options)
    assert load([source], tmp_path / "wd", options=options).skipped == 2


def test_load_of_changed_sources_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, source = tmp_path / "wd", written(tmp_path / "g.tsv", "Q1\tP1\tQ2\n")
    with monkeypatch.context() as patch:
        patch.setattr("wikidata_cache.stores.load.index_names", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load([source], store)
    written(source, "Q5\tP1\tQ6\nQ7\tP1\tQ8\n")
    load([source], store)
    assert contents(store).count(b"\n") == 2


def test_load_starts_over_if_the_labels_nearby_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wikidata_cache.stores.chunks.CHUNK", 100)
    monkeypatch.setattr("wikidata_cache.stores.chunks._KEPT", 100)
    source = written(tmp_path / "g.tsv", "Q1\tP1\tQ2\n")
    written(tmp_path / "labels.tsv", "".join(f"Q{number}\tlabel\told\n" for number in range(1, 100)))

    def stop() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        add, turns = loading.Database.add, iter(range(6))
        patch.setattr(loading.Database, "add", lambda *arguments: add(*arguments) if next(turns) < 5 else stop())
        with pytest.raises(KeyboardInterrupt):
            load([source], tmp_path / "wd")
    written(tmp_path / "labels.tsv", "".join(f"Q{number}\tlabel\tnewer\n" for number in range(1, 100)))
    load([source], tmp_path / "wd")
    assert contents(tmp_path / "wd").count(b"newer") == 99 and b"old" not in contents(tmp_path / "wd")


def test_load_replaces_stores_only_with_force(tmp_path: Path) -> None:
    source = written(tmp_path / "g.tsv", "Q1\tP1\tQ2\n")
    (tmp_path / "empty").mkdir()
    load([source], tmp_path / "empty")
    with pytest.raises(StoreError, match="is already a store; replace it with --force"):
        load([source], tmp_path / "empty")
    load([source], tmp_path / "empty", force=True)
    (tmp_path / "thesis").mkdir()
    written(tmp_path / "thesis" / "chapter.tex", "years of work")
    (tmp_path / "wd.loading").mkdir()
    written(tmp_path / "wd.loading" / "mine.txt", "mine")
    for name, problem in {
        "thesis": "is not a store",
        "g.tsv": "is not a store",
        "wd": "is not an unfinished store",
    }.items():
        with pytest.raises(StoreError, match=problem):
            load([source], tmp_path / name, force=True)
    assert (tmp_path / "thesis" / "chapter.tex").exists()
    assert (tmp_path / "wd.loading" / "mine.txt").exists()


def test_two_loads_at_once_are_refused(tmp_path: Path) -> None:
    source = written(tmp_path / "g.tsv", "Q1\tP1\tQ2\n")
    (tmp_path / "wd.loading").mkdir()
    with (
        FileLock(tmp_path / "wd.loading" / "lock"),
        pytest.raises(StoreError, match="another process is loading this store"),
    ):
        load([source], tmp_path / "wd")
    load([source], tmp_path / "wd")
    assert is_store(tmp_path / "wd")

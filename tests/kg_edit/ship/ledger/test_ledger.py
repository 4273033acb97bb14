"""A ledger: its sum, its history, kills, and its writers."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from kg_edit.edits.edit import Edit
from kg_edit.errors import (
    LedgerChangedError,
    OutputError,
    PatchError,
)
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.ledger import Ledger
from kg_edit.ship.ledger import log as store
from kg_edit.ship.ledger.additions import Addition, list_additions
from tests.kg_edit.command_line import content
from tests.kg_edit.ship.ledger.ledgers import edits_of, made_up, product, same

ONE, TWO, THREE = (made_up(edits_of(2, start=start)) for start in (0, 2, 4))


def states(ledger: Ledger) -> dict[str, str]:
    return {entry.name: entry.state for entry in ledger.edits}


def test_ledger_patch_is_the_sum_of_its_steps(tmp_path: Path) -> None:
    file = TWO.save(tmp_path / "two.safetensors")
    ledger = Ledger.open(tmp_path / "ledger")
    assert ledger.patch.is_empty and ledger.edits == () and not (tmp_path / "ledger").exists()
    assert [ledger.add(ONE), ledger.add(file), ledger.add(THREE)] == [1, 2, 3]
    torch.testing.assert_close(product(ledger.patch), product(ONE) + product(TWO) + product(THREE))
    assert [record["edit"]["id"] for record in ledger.patch.edits] == [f"e{number}" for number in range(6)]
    stored = sorted((tmp_path / "ledger" / "patches").iterdir())
    assert [path.name for path in stored] == [f"000{number}.safetensors" for number in (1, 2, 3)]
    assert stored[1].read_bytes() == file.read_bytes(), "as added"
    again = Ledger.open(tmp_path / "ledger", create=False)
    assert same(again.patch, ledger.patch)


def test_edit_that_is_added_while_the_log_is_read_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's thread reads the bytes, and another one adds an edit and reads it, before the first compares."""
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(ONE)
    read = Path.read_bytes

    def slowly(path: Path) -> bytes:
        content = read(path)
        if path.name == store.LOG:
            monkeypatch.undo()
            ledger.add(TWO)
            assert len(ledger.events) == 2
        return content

    monkeypatch.setattr(Path, "read_bytes", slowly)
    assert len(ledger.events) == 1


def test_patch_that_does_not_reach_the_disk_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def full(file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        if Path(f"/proc/self/fd/{number}").readlink().name == "0002.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(file)

    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(ONE)
    with monkeypatch.context() as patch:
        patch.setattr(store.os, "fsync", full)
        with pytest.raises(OutputError, match=r"can't write .*0002\.safetensors: No space left"):
            ledger.add(TWO)
    assert [path.name for path in (tmp_path / "ledger" / "patches").iterdir()] == ["0001.safetensors"]
    assert ledger.add(TWO) == 2


def test_log_line_has_time_file_and_versions(tmp_path: Path) -> None:
    Ledger.open(tmp_path / "ledger").add(ONE.save(tmp_path / "one.safetensors"))
    (line,) = (tmp_path / "ledger" / "ledger.jsonl").read_text().splitlines()
    event = json.loads(line)
    assert event["event"] == "added" and event["source"] == "one.safetensors" and event["time"].endswith("+00:00")
    (tmp_path / "monday").mkdir()  # the name alone of a run's patch says nothing
    Ledger.open(tmp_path / "ledger").add(TWO.save(tmp_path / "monday" / "patch.safetensors"))
    assert '"source":"monday/patch.safetensors"' in (tmp_path / "ledger" / "ledger.jsonl").read_text()
    assert len(event["file"]["sha256"]) == 64 and event["kg_edit"] and event["version"] == 1


def test_remove_of_independent_steps_needs_no_model_and_is_undone(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    for patch in (ONE, TWO, THREE):
        ledger.add(patch)
    before = content(tmp_path / "ledger" / "patches")
    assert [entry.name for entry in ledger.remove(["e2", "e3"])] == ["e2", "e3"]
    assert same(ledger.patch, ONE + THREE)
    assert states(ledger)["e2"] == "removed" and states(ledger)["e4"] == "active"
    assert ledger.undo().event == "removed"
    assert same(ledger.patch, ONE + TWO + THREE)
    assert content(tmp_path / "ledger" / "patches") == before, "a removal of whole steps writes no patch"


def test_removed_edits_are_listed_in_the_ledgers_order(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(made_up(edits_of(11)[2::8]))
    assert [entry.name for entry in ledger.remove(["e10", "e2"])] == ["e2", "e10"]
    event = ledger.undo()
    assert isinstance(event, store.Removed) and event.edits == ((1, "e2"), (1, "e10"))


def test_undo_reaches_the_beginning(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(ONE)
    ledger.add(TWO)
    ledger.remove("1/*")
    assert [ledger.undo().event for _ in range(3)] == ["removed", "added", "added"]
    assert ledger.patch.is_empty
    ledger.add(THREE)
    assert same(ledger.patch, THREE) and ledger.steps[0].number == 7
    assert len(ledger.events) == 7, "the log only grows"


def test_remove_of_the_last_edits_of_a_sequence_needs_no_model(tmp_path: Path) -> None:
    """Of ROME's columns the first ones know nothing of the later ones, so no model is needed."""
    patch = made_up(edits_of(4))
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(patch)
    ledger.remove(["e2", "e3"])
    (pair,), (old,) = ledger.patch.factors.values(), patch.factors.values()  # type: ignore[attr-defined]
    assert torch.equal(pair.left, old.left[:, :2]) and torch.equal(pair.right, old.right[:, :2])
    assert states(ledger) == {"e0": "active", "e1": "active", "e2": "removed", "e3": "removed"}


def test_edits_are_named_by_id_or_step_and_id(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(ONE)
    ledger.add(made_up(edits_of(2), weight="other.weight"))
    assert list(states(ledger)) == ["1/e0", "1/e1", "2/e0", "2/e1"]
    ledger.remove(["2/e0", "2/e1"])
    assert same(ledger.patch, ONE)


def test_addition_without_its_log_line_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(ONE)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store.Store, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            ledger.add(TWO)  # the file is there, the line is not
    with (tmp_path / "ledger" / "ledger.jsonl").open("a") as log:
        log.write('{"number":2,"event":"add')  # a line that was cut off
    assert same(Ledger.open(tmp_path / "ledger").patch, ONE)
    assert ledger.add(THREE) == 2
    assert same(Ledger.open(tmp_path / "ledger").patch, ONE + THREE)
    assert len((tmp_path / "ledger" / "ledger.jsonl").read_text().splitlines()) == 2


def test_log_line_cut_within_a_character_is_ignored(tmp_path: Path) -> None:
    log, ledger = tmp_path / "ledger" / "ledger.jsonl", Ledger.open(tmp_path / "ledger")
    ledger.add(ONE)
    first = len(log.read_bytes())
    ledger.add(TWO.save(tmp_path / "Žižkov-ü.safetensors"))
    data = log.read_bytes()
    assert len(data.decode()) < len(data), "letters of several bytes"
    for cut in range(first, len(data)):
        log.write_bytes(data[:cut])
        assert len(Ledger.open(tmp_path / "ledger").events) == 1
    log.write_bytes(data[: data.index("Ž".encode()) + 1] + b"\n")
    with pytest.raises(PatchError, match="line 2: not a valid event of a ledger"):
        _ = Ledger.open(tmp_path / "ledger").events


def test_ledger_without_its_log_is_refused_and_unchanged(tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    ledger = Ledger.open(folder)
    ledger.add(ONE)
    ledger.add(TWO)
    log = (folder / "ledger.jsonl").read_bytes()
    (folder / "ledger.jsonl").unlink()
    before = content(folder / "patches")
    message = r"has 2 stored patches.*is missing; restore the log from a backup, or .*kg-edit patch add NEW"
    for create in (True, False):
        with pytest.raises(PatchError, match=message):
            Ledger.open(folder, create=create)
    with pytest.raises(PatchError, match=message):
        ledger.add(THREE)  # of a process that had it open
    assert content(folder / "patches") == before
    (folder / "ledger.jsonl").write_bytes(log)
    assert same(Ledger.open(folder).patch, ONE + TWO)


def test_id_that_looks_like_step_and_id_names_its_own_edit(tmp_path: Path) -> None:
    """It names its own edit, also once that is removed."""
    strange = edits_of(1, start=3)[0].model_copy(update={"id": "1/e1"})
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(made_up(edits_of(1, start=1)))
    ledger.add(replace(made_up(edits_of(1)), provenance=provenance_of(strange)))
    assert [entry.edit.subject for entry in ledger.remove(["1/e1"])] == [strange.subject]
    assert [record["edit"]["id"] for record in ledger.patch.edits] == ["e1"]


def provenance_of(edit: Edit) -> dict[str, Any]:
    """The provenance of a made-up patch of one edit."""
    provenance = dict(made_up(edits_of(1)).provenance)
    return {
        **provenance,
        "edits": [{**provenance["edits"][0], "edit": edit.model_dump(mode="json", exclude_defaults=True)}],
    }


def test_files_without_log_lines_are_not_overwritten(tmp_path: Path) -> None:
    """As when the log is an older copy than the files."""
    folder = tmp_path / "ledger"
    ledger = Ledger.open(folder)
    ledger.add(ONE)
    log = (folder / "ledger.jsonl").read_bytes()
    ledger.add(TWO)
    (folder / "ledger.jsonl").write_bytes(log)
    (folder / "patches" / "mine.safetensors").write_bytes(b"")
    before = content(folder / "patches")
    assert before and Ledger.open(folder).add(THREE) == 2
    assert content(folder / "patches") == {**before, "0003.safetensors": ledger.file(ledger.steps[1]).read_bytes()}


def test_ledger_has_one_writer_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_WAIT", 0.05)
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(ONE)
    with FileLock(tmp_path / "ledger" / ".lock"), pytest.raises(OutputError, match="another process"):
        ledger.add(TWO)
    ledger.add(TWO)
    assert same(ledger.patch, ONE + TWO)


def test_add_on_given_steps_refuses_a_changed_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, other = Ledger.open(tmp_path / "ledger"), Ledger.open(tmp_path / "ledger")
    ledger.add(ONE)
    seen = ledger.steps
    assert ledger.add(TWO, on=seen) == 2
    locked = store.Store.locked

    def written_before_the_lock_is_ours(self: store.Store) -> AbstractContextManager[None]:
        monkeypatch.setattr(store.Store, "locked", locked)
        other.undo()
        return locked(self)

    seen = ledger.steps
    monkeypatch.setattr(store.Store, "locked", written_before_the_lock_is_ours)
    with pytest.raises(LedgerChangedError):
        ledger.add(THREE, on=seen)
    assert same(ledger.patch, ONE)


def test_folder_of_somebody_else_is_no_near_name() -> None:
    """A folder for everybody, such as /tmp, has folders that only their owner can read."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folder is closed to other users
        folder, user = Path(name), os.geteuid()
        folder.chmod(0o755)
        (folder / "ledger").mkdir(mode=0)
        if user == 0:  # root reads every folder
            os.seteuid(65534)
        try:
            store.open_store(folder / "ledgers").refuse_misspelled()
            with pytest.raises(PatchError, match=r"no ledger at \S*/ledgers; kg-edit patch add"):
                Ledger.open(folder / "ledgers", create=False)
        finally:
            os.seteuid(user)
            (folder / "ledger").chmod(0o700)


def test_add_all_adds_all_or_none(tmp_path: Path) -> None:
    one, two, three = (
        patch.save(tmp_path / f"{name}.safetensors") for name, patch in (("one", ONE), ("two", TWO), ("three", THREE))
    )
    other = made_up(edits_of(1, start=9), model="another").save(tmp_path / "other.safetensors")
    scaled = (-THREE).save(tmp_path / "scaled.safetensors")
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(one)
    before = content(tmp_path / "ledger")
    for bad, message in (
        (tmp_path / "nowhere", "no such file"),
        (other, "different models"),
        (scaled, "-1 times, so it can't be recomputed later"),
        (one, "is already in the ledger, as step 1"),
        (two, "two.safetensors is given twice; give it once"),
        (TWO.save(tmp_path / "copy.safetensors"), "is the same patch as"),
    ):
        with pytest.raises(PatchError, match=message) as error:
            ledger.add_all([Addition(path=path) for path in (two, bad)])
        assert str(bad) in "\n".join([str(error.value), *getattr(error.value, "__notes__", ())])
        assert content(tmp_path / "ledger") == before
    assert ledger.add_all([Addition(path=two), Addition(path=three, after=(0,))]) == (2, 3)
    assert [step.after for step in ledger.steps] == [(), (), (2,)]
    assert same(ledger.patch, ONE + TWO + THREE)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OutputError("no space left on device")], ids=["kill", "full"])
@pytest.mark.parametrize("done", range(4))
def test_add_all_interrupted_at_any_write_adds_all_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int, error: BaseException
) -> None:
    files = [patch.save(tmp_path / f"{index}.safetensors") for index, patch in enumerate((ONE, TWO, THREE))]
    ledger, writes = Ledger.open(tmp_path / "ledger"), [0]

    def counted(original: Any) -> Any:
        def write(*args: Any, **options: Any) -> Any:
            if writes[0] == done:
                raise error
            writes[0] += 1
            return original(*args, **options)

        return write

    with monkeypatch.context() as patched:
        for owner, name in ((store, "replacing"), (store.Store, "append")):
            patched.setattr(owner, name, counted(getattr(owner, name)))
        with pytest.raises(type(error)):
            ledger.add_all([Addition(path=path) for path in files])
    assert Ledger.open(tmp_path / "ledger", create=False).patch.is_empty, "the log is made first"
    if isinstance(error, OutputError) and done < 3:
        assert not list((tmp_path / "ledger").glob("patches/*"))
    assert ledger.add_all([Addition(path=path) for path in files]) == (1, 2, 3)
    assert same(ledger.patch, ONE + TWO + THREE)


def test_steps_of_a_sequence_come_after_the_earlier_ones(tmp_path: Path) -> None:
    """In the folder of `kg-edit evaluate`; elsewhere the same names mean nothing."""
    names = ("00000-00002", "00000-00003", "00000-sum-00002", "00001-00000")
    patches = tmp_path / "run" / "patches"
    files = [
        made_up(edits_of(1, start=start)).save(patches / f"{name}.safetensors") for start, name in enumerate(names)
    ]
    assert [addition.after for addition in list_additions(files)] == [(), (), (), ()]
    (tmp_path / "run" / "run.json").write_text("{}")
    ordered = list_additions(files)
    assert [(addition.path.stem, addition.after) for addition in ordered] == [
        ("00000-sum-00002", ()),
        ("00000-00002", (0,)),
        ("00000-00003", (0, 1)),
        ("00001-00000", ()),
    ]
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add_all(ordered)
    assert [step.after for step in ledger.steps] == [(), (1,), (1, 2), ()]


def test_add_of_another_ledger_keeps_the_order_of_its_steps(tmp_path: Path) -> None:
    first, second = Ledger.open(tmp_path / "first"), Ledger.open(tmp_path / "second")
    first.add(ONE)
    second.add(TWO)
    second.add(THREE, after=[1])
    assert first.add_all(list_additions([second.folder])) == (2, 3)
    assert same(first.patch, ONE + TWO + THREE)
    assert [step.after for step in first.steps] == [(), (), (2,)]
    assert isinstance(Patch.load(first.file(first.steps[1])), WeightPatch)

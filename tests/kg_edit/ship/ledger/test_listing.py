"""Paths: patch files, folders with one, and ledgers, which are listed as of one state of their log."""

from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.errors import PatchError
from kg_edit.ship.ledger import Ledger
from kg_edit.ship.ledger.listing import Listing, active_at, check_patches
from kg_edit.storage.run_folder import PATCH
from tests.kg_edit.ship.ledger.ledgers import edits_of, made_up

ONE = made_up(edits_of(2))


def test_repeated_ids_of_a_patch_are_numbered(tmp_path: Path) -> None:
    file = (ONE + ONE + made_up(edits_of(1, start=4))).save(tmp_path / "sum.safetensors")
    patch, entries = active_at(file)
    assert [entry.name for entry in entries] == ["e0", "e1", "e0#2", "e1#2", "e4"]
    assert len(patch.edits) == 5 and {entry.state for entry in entries} == {"active"}


def test_scaled_patch_is_read(tmp_path: Path) -> None:
    file = ONE.scaled(0.5).save(tmp_path / "half.safetensors")
    assert [entry.name for entry in active_at(file)[1]] == ["e0", "e1"]


def test_folder_of_an_edit_run_names_its_patch(tmp_path: Path) -> None:
    """But a ledger with a patch in its folder is a ledger."""
    ONE.save(tmp_path / "out" / PATCH)
    assert [entry.name for entry in active_at(tmp_path / "out")[1]] == ["e0", "e1"]
    Ledger.open(tmp_path / "ledger").add(made_up(edits_of(1, start=4)))
    ONE.save(tmp_path / "ledger" / PATCH)
    assert [entry.name for entry in active_at(tmp_path / "ledger")[1]] == ["e4"]


def test_listing_is_of_one_state_of_the_log(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(ONE)
    for listing in (Listing.open(tmp_path / "ledger"), ledger.now):
        before = [entry.name for entry in listing.active]
        ledger.add(made_up(edits_of(1, start=10 + len(before))))
        assert [record["edit"]["id"] for record in listing.patch.edits] == before
        assert [entry.name for entry in listing.active] == before != [entry.name for entry in ledger.active]


def test_ledger_is_read_as_it_was_after_an_event(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(ONE)
    ledger.add(made_up(edits_of(1, start=4)))
    ledger.remove("e4")
    ledger.undo()
    active = [[entry.name for entry in active_at(f"{ledger.folder}@{event}")[1]] for event in (1, 2, 3, 4)]
    assert active == [["e0", "e1"], ["e0", "e1", "e4"], ["e0", "e1"], ["e0", "e1", "e4"]]
    for event in (0, 5):
        with pytest.raises(PatchError, match=f"no event {event}, only 1 to 4"):
            check_patches([Path(f"{ledger.folder}@{event}")])
    Ledger.open(tmp_path / "other").add(ONE)
    (tmp_path / "other").rename(tmp_path / "ledger@2")
    assert [entry.name for entry in active_at(tmp_path / "ledger@2")[1]] == ["e0", "e1"], "a folder of this name"

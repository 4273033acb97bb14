"""A ledger is brought to another model: what is dropped, what is computed again, and what an interruption leaves."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.errors import OutputError, PatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.average import average_patches
from kg_edit.patches.base import Patch
from kg_edit.scoring.generation import continuations
from kg_edit.ship.ledger import Ledger, rebase
from kg_edit.ship.ledger.listing import Listing, read_listing
from kg_edit.text.matching import normalised
from tests.everyday import keep_first
from tests.kg_edit.command_line import Run, cache, content, kg_edit, place
from tests.kg_edit.on_tiny import on_tiny
from tests.kg_edit.ship.ledger.ledgers import edits_of, same
from tests.kg_edit.tiny import same_weights, tiny, weights_of
from tests.refusals import Call, check_refused, refusals

__all__ = ["cache", "kg_edit", "place"]  # fixtures
EDITS = edits_of(4)


@lru_cache
def next_release() -> LanguageModel:
    """The tiny model after some more training: random changes of all its weights."""
    model = deepcopy(tiny("llama").model)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=draw)
    return LanguageModel.wrap(model, tiny("llama").tokenizer, name="next")


@lru_cache
def known() -> Edit:
    """An edit whose target the next release generates by itself."""
    (text,) = continuations(next_release(), ["The river flows by"], limits=[30])
    target = normalised(text)[0]
    return Edit(id="known", subject="river", prompt="The {} flows by", target_new=target)


def made_ledger(folder: Path) -> Ledger:
    """Two edits and a known one in the first step, one on top of it, and one by itself."""
    ledger = Ledger.open(folder)
    rome = on_tiny("rome")
    ledger.make(rome, [EDITS[0], known(), EDITS[1]], force=True)
    ledger.make(rome, [EDITS[2]], force=True)
    ledger.add(rome.edit([EDITS[3]]), force=True)
    return ledger


@pytest.mark.slow
def test_what_the_model_does_not_know_is_computed_again(tmp_path: Path) -> None:
    source = made_ledger(tmp_path / "old")
    before = content(source.folder)
    model = next_release()
    clean = weights_of(model)
    found = rebase.rebase(source.now, model, tmp_path / "new", force=True)
    assert [fact.entry.name for fact in found.known] == ["known"] and found.known[0].text
    assert [edit.entry.name for edit in found.checked] == [edit.id for edit in EDITS]

    new = Listing.open(tmp_path / "new")
    rome = on_tiny("rome", model)
    first = rome.edit(EDITS[:2])
    second = rome.edit([EDITS[2]], before=first)
    for number, patch in enumerate((first, second, rome.edit([EDITS[3]])), 1):
        assert same(new.patches[number], patch)
    assert [step.after for step in new.steps] == [(), (1,), ()], "as in the old ledger"
    assert content(source.folder) == before
    assert same(Listing.open(tmp_path / "new" / "before").patch, source.patch), "with its history"
    notes = json.loads((tmp_path / "new" / "rebase.json").read_text())
    assert notes["to"]["name"] == "next" and list(notes["known"]) == ["1/known"]
    assert {path.name for path in tmp_path.iterdir()} == {"old", "new"}
    assert same_weights(model, clean)


@pytest.mark.slow
def test_second_rebase_has_both_histories(tmp_path: Path) -> None:
    rebase.rebase(made_ledger(tmp_path / "a").now, next_release(), tmp_path / "b", force=True)
    back = rebase.rebase(read_listing(tmp_path / "b"), tiny("llama"), tmp_path / "c", force=True)
    assert back.checked
    assert [len(Listing.open(tmp_path / "c" / part).events) for part in ("", "before", "before/before")] == [3, 3, 3]


class StoppedError(Exception):
    """A kill after an edit."""


@pytest.mark.parametrize("saves", keep_first([2, 1, 3]))
@pytest.mark.slow
def test_interrupted_rebase_continues_after_its_last_edit(
    saves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = made_ledger(tmp_path / "old").now
    whole = rebase.rebase(source, next_release(), tmp_path / "whole", force=True)
    made: list[list[str]] = []

    def save(self: rebase._Saves, latest: Patch) -> None:
        latest.save(self.partial)
        made.append([record["edit"]["id"] for record in latest.edits])
        if len(made) == saves:
            raise StoppedError

    monkeypatch.setattr(rebase._Saves, "save_if_due", save)
    with pytest.raises(StoppedError):
        rebase.rebase(source, next_release(), tmp_path / "new", force=True)
    assert not (tmp_path / "new").exists()
    rebase.rebase(source, next_release(), tmp_path / "new", force=True)
    assert len(made) == len(EDITS), "each edit is made once"
    assert same(Listing.open(tmp_path / "new").patch, Listing.open(whole.folder).patch)
    assert {path.name for path in tmp_path.iterdir()} == {"old", "whole", "new"}


@pytest.mark.slow
def test_other_state_of_the_ledger_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = made_ledger(tmp_path / "old")

    def stop(self: rebase._Saves, latest: Patch) -> None:
        latest.save(self.partial)
        raise StoppedError

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(rebase._Saves, "save_if_due", stop)
        rebase.rebase(ledger.now, next_release(), tmp_path / "new", force=True)
    ledger.remove("1/*", model=tiny("llama"))
    rebase.rebase(ledger.now, next_release(), tmp_path / "new", force=True)
    assert [entry.name for entry in Listing.open(tmp_path / "new").active] == [EDITS[2].id, EDITS[3].id]


def of_ledger(*patches: Patch) -> Call:
    """The ledger with these patches is rebased."""

    def call(folder: Path) -> object:
        ledger = Ledger.open(folder / "old")
        for patch in patches:
            ledger.add(patch, force=True)
        return rebase.rebase(Listing(folder / "old"), next_release(), folder / "new", force=True)

    return call


def on_its_own_model(folder: Path) -> object:
    ledger = Ledger.open(folder / "old")
    ledger.add(on_tiny("rome").edit([EDITS[0]]), force=True)
    return rebase.rebase(ledger.now, tiny("llama"), folder / "new")


def into_a_folder_with_files(folder: Path) -> object:
    (folder / "new").mkdir()
    (folder / "new" / "notes").touch()
    return rebase.rebase(Ledger.open(folder / "old").now, next_release(), folder / "new")


def mean_of_two() -> Patch:
    patch = on_tiny("rome").edit([EDITS[0]])
    return average_patches([patch, patch], [0.5, 0.5])


@refusals(
    {
        "no edit": (of_ledger(), PatchError, "no active edit"),
        "its own model": (on_its_own_model, PatchError, "of this model already"),
        "a folder with files": (into_a_folder_with_files, OutputError, "already exists"),
        "an average": (lambda folder: of_ledger(mean_of_two())(folder), PatchError, "average"),
    }
)
def test_refused_rebase_writes_nothing(call: Call, error: type[Exception], keyword: str, tmp_path: Path) -> None:
    check_refused(call, tmp_path, error, keyword)
    names = {path.name for path in tmp_path.iterdir()}
    assert names <= {"old", "new"} and not (tmp_path / "new" / "ledger.jsonl").exists()


def test_rebase_command(kg_edit: Run, place: Path) -> None:
    made_ledger(place / "old")
    next_release().model.save_pretrained(place / "next")
    next_release().tokenizer.save_pretrained(place / "next")
    result = kg_edit("patch", "rebase", "old", "--model", "next", "--out", "new", "--force")
    assert result.code in (0, 1), result.err
    assert "known already, and dropped: known" in result.out
    assert "new: 4 edits computed again on next, 1 known already" in result.out
    assert "rebased from" in kg_edit("patch", "show", "new").out
    shown = kg_edit("patch", "list", "new")
    assert all(edit.id in shown.out for edit in EDITS) and "known" not in shown.out
    assert kg_edit("patch", "rebase", "old", "--model", "next", "--out", "new").code == 2

"""Edits removed from patches of joint methods and of codebooks, where the others need not be recomputed."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.methods import find_method
from kg_edit.methods.memit.records import facts_of
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.entries import edit_of
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.ledger import Ledger
from kg_edit.ship.ledger.check import check
from kg_edit.zoo.grace.patch import CodebookPatch
from kg_edit.zoo.serac.patch import ScopePatch
from tests.everyday import keep_first
from tests.kg_edit.on_tiny import on_tiny
from tests.kg_edit.ship.ledger.ledgers import edits_of, same
from tests.kg_edit.tiny import tiny

CLOSED_FORM = ("memit", "emmet", "alphaedit", "pmet")


def assert_near(one: Patch, other: Patch, *, share: float = 1e-4) -> None:
    """The same change of every weight, to rounding, by the same edits."""
    assert isinstance(one, WeightPatch) and isinstance(other, WeightPatch)
    assert one.factors.keys() == other.factors.keys()
    for name, pair in one.factors.items():
        mine, its = pair.product, other.factors[name].product
        assert float((mine - its).norm()) < share * float(its.norm()), name
    assert [record["edit"] for record in one.edits] == [record["edit"] for record in other.edits]


@pytest.mark.slow
@pytest.mark.parametrize("name", keep_first(CLOSED_FORM, keep=1))
def test_remove_ten_of_fifty_equals_a_solve_of_forty(name: str, tmp_path: Path) -> None:
    model, edits = tiny("llama"), edits_of(50)
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(on_tiny(name, model).edit(edits), force=True)
    before = ledger.patch
    gone = Random(5).sample([edit.id for edit in edits], 10)  # noqa: S311 - no secret
    ledger.remove(gone, model=model)
    fresh = on_tiny(name, model).edit([edit for edit in edits if edit.id not in gone])
    assert_near(ledger.patch, fresh)
    assert {position.id for position in ledger.recomputed} == {edit.id for edit in edits} - {*gone}
    ledger.undo()
    assert same(ledger.patch, before) and ledger.recomputed == {}


@pytest.mark.slow
def test_remove_recomputes_a_later_batch(tmp_path: Path) -> None:
    """Its values were found on the model with the first batch in it."""
    model, edits = tiny("llama"), edits_of(6)
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.make(on_tiny("memit", model), edits[:3], force=True)
    ledger.make(on_tiny("memit", model), edits[3:], force=True)
    ledger.remove(["e1"], model=model)
    first = on_tiny("memit", model).edit([edits[0], edits[2]])
    assert_near(ledger.patch, first + on_tiny("memit", model).edit(edits[3:], before=first), share=1e-3)


@pytest.mark.slow
def test_remove_from_two_batches_in_one_file(tmp_path: Path) -> None:
    """An edit of the first batch takes the second one's values with it, an edit of the last one nothing."""
    model, edits = tiny("llama"), edits_of(5)
    editor = on_tiny("memit", model)
    both = editor.edit(edits[2:], start=editor.edit(edits[:2]))
    for gone, batches in (("e0", (edits[1:2], edits[2:])), ("e4", (edits[:2], edits[2:4]))):
        ledger = Ledger.open(tmp_path / gone)
        ledger.add(both)
        ledger.remove([gone], model=model)
        fresh = on_tiny("memit", model).edit(batches[1], start=on_tiny("memit", model).edit(batches[0]))
        assert_near(ledger.patch, fresh, share=1e-3)


@pytest.mark.parametrize("name", keep_first(["restrained-memit", "restrained-rome"]))
def test_remove_from_a_restrained_patch(name: str, tmp_path: Path) -> None:
    """The change of an edit has no columns of its own, with ``rect`` it is dense."""
    model, edits = tiny("llama"), edits_of(4)
    editor = on_tiny(name, model, rect=0.4, prune=1.2)
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.make(editor, edits, force=True)
    ledger.remove(["e1"], model=model)
    assert_near(ledger.patch, editor.edit([edits[0], *edits[2:]]), share=1e-3)


def test_edit_of_a_stored_patch_may_have_a_target_of_two_lines() -> None:
    """An earlier version made such edits; in a file of edits they are refused."""
    record = {"edit": {**edits_of(1)[0].model_dump(mode="json"), "target_new": "New\nYork"}}
    assert edit_of(record).target_new == facts_of(record)[0].target_new == "New\nYork"


@pytest.mark.slow
def test_remove_from_a_codebook_needs_no_model(tmp_path: Path) -> None:
    """An entry of a codebook goes without a model, though weights and another codebook came before and after."""
    model, edits = tiny("llama"), edits_of(6)
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.make(on_tiny("rome", model), edits[:1], force=True)
    ledger.make(on_tiny("grace", model), edits[1:3])
    ledger.make(on_tiny("grace", model), edits[3:5])
    files = [step.file.name for step in ledger.steps]
    with ledger.patch.applied(model) as edited:
        assert len(check(edited, ledger.edits)) == 5
    ledger.remove(["e1"])
    assert [step.file.name for step in ledger.steps] == [files[0], "0004.safetensors", files[2]]
    rome, first, second = ledger.patches.values()
    fresh = on_tiny("grace", model).edit(edits[2:3], before=rome)
    assert isinstance(first, CodebookPatch) and isinstance(fresh, CodebookPatch)
    for name, book in first.codebooks.items():
        torch.testing.assert_close(book.values, fresh.codebooks[name].values, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(book.keys, fresh.codebooks[name].keys, rtol=1e-4, atol=1e-5)
    assert [record["edit"]["id"] for record in ledger.patch.edits] == ["e0", "e2", "e3", "e4"]
    assert second.edits[0]["edit"]["id"] == "e3"


def test_remove_of_a_prompt_text_leaves_the_others(tmp_path: Path) -> None:
    model, edits = tiny("llama"), edits_of(3)
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.make(on_tiny("rome", model), edits[:1], force=True)
    ledger.make(on_tiny("definition", model), edits[1:])
    ledger.remove(["e1", "e0"])
    assert [record["edit"]["id"] for record in ledger.patch.edits] == ["e2"]
    assert ledger.patch.changed_part == "prompt"


def test_remove_recomputes_a_memory_above_changed_weights(tmp_path: Path) -> None:
    """Its vectors are hidden states of the model with the first step; another memory does not change them."""
    model, edits = tiny("llama"), edits_of(3)
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.make(on_tiny("rome", model, layer=0), edits[:1], force=True)
    ledger.make(on_tiny("serac", model, layer=2), edits[1:2])
    ledger.make(on_tiny("serac", model, layer=2), edits[2:])
    ledger.remove(["e0"], model=model)
    memory, fresh = ledger.patch, on_tiny("serac", model, layer=2).edit(edits[1:])
    assert isinstance(memory, ScopePatch) and isinstance(fresh, ScopePatch)
    for fact, expected in zip(memory.facts, fresh.facts, strict=True):
        assert torch.equal(fact.vectors, expected.vectors)
    assert {position.id for position in ledger.recomputed} == {"e1", "e2"}
    ledger.remove(["e1"])  # needs no model
    assert [record["edit"]["id"] for record in ledger.patch.edits] == ["e2"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_remove_ten_of_fifty_facts_of_the_real_model(smollm2: LanguageModel, shared: Path, tmp_path: Path) -> None:
    """Ten of fifty facts are removed from MEMIT's patch: the old ones are back, and the others hold as before."""
    memit, text = find_method("memit"), next((shared / "wikitext2").glob("*test*"))
    covariance = {"corpus": str(text), "tokens": 4000}
    short = {"steps": 10, "context_starts": ["The"], "context_tokens": 5, "covariance": covariance}
    editor = memit(smollm2, memit.config_class.preset("default", short))
    edits = facts(shared / "counterfact_plus" / "dev.json", count=50)
    ledger = Ledger.open(tmp_path / "ledger")
    ledger.add(editor.edit(edits))
    unedited, before = holding(smollm2, ledger), holding_with(smollm2, ledger)
    gone = set(Random(5).sample([edit.id for edit in edits], 10))  # noqa: S311 - no secret
    removed = ledger.remove(gone, model=smollm2)
    assert {entry.position.id for entry in removed} == gone
    remaining = {edit.id for edit in edits} - gone
    assert len(before) >= 40 > len(unedited)
    assert len(holding_with(smollm2, ledger)) >= len(before & remaining) - 1
    with ledger.patch.applied(smollm2) as edited:
        back = {result.entry.position.id for result in check(edited, removed) if result.failures()}
    assert len(back) >= len(gone - unedited) - 1


def facts(path: Path, *, count: int) -> list[Edit]:
    """Edits of different subjects, with their own prompt only."""
    alone = {"paraphrases": (), "neighborhood": (), "portability": ()}
    records = find_dataset("counterfact-plus")(path)
    by_subject = {edit.subject: edit.model_copy(update=alone) for record in records for edit in record.edits}
    return list(by_subject.values())[:count]


def holding(model: LanguageModel, ledger: Ledger) -> set[str]:
    """The active edits whose fact holds on a model."""
    return {result.entry.position.id for result in check(model, ledger.active) if not result.failures()}


def holding_with(model: LanguageModel, ledger: Ledger) -> set[str]:
    with ledger.patch.applied(model) as edited:
        return holding(edited, ledger)

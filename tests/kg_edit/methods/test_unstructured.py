"""Unstructured edits by the methods that take them; the others name those."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from kg_edit.edits.edit import Edit, parse_record
from kg_edit.errors import EditError
from kg_edit.methods import find_method, method_names
from kg_edit.methods.memit.joint_method import JointMethod
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from tests.everyday import keep_first
from tests.kg_edit.methods.memit.joint import BARE, EDITS, JOINT, change, joint
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.tiny import tiny


def edit_of(name: str, prompt: str, text: str) -> Edit:
    return parse_record(Edit, {"id": name, "prompt": prompt, "target_text": text})


TEXT = edit_of(
    "fox",
    "Where does the fox jump?",
    "The quick brown fox jumps over the lazy dog. It plays for Miami Heat in France.",
)
OTHER = edit_of("river", "Where is Paris?", "Paris is the capital of France.")
TAKING = ("ft", "ft-m", "grace", "memit", "rag", "ultraedit")


def test_other_methods_name_those_that_take_it() -> None:
    method = find_method("rome").on(tiny("llama"), settings=QUICK["rome"])
    for make in (method.edit, method.edit_each, lambda edit: method.check_inputs(method.config, None, [edit])):
        with pytest.raises(
            EditError, match="field target_text: rome does not make unstructured edits, such as the edit 'fox'"
        ) as e:
            make(TEXT)
        assert {*TAKING, "lora", "alphaedit"} <= {*str(e.value).rpartition(": ")[2].split(", ")}
        assert "memit-kg" not in str(e.value) and "\n" not in str(e.value)


@pytest.mark.slow
def test_every_method_that_is_named_makes_an_edit_without_a_subject() -> None:
    for method in map(find_method, method_names()):
        if method.takes_text and method.name not in TAKING:
            assert method.on(tiny("llama"), settings=QUICK[method.name]).edit(TEXT).edits, method.name


@pytest.mark.parametrize("name", keep_first(TAKING, keep=3))
def test_text_becomes_likelier(name: str) -> None:
    """With a subject in the prompt too."""
    model = tiny("llama")
    method = find_method(name).on(model, settings=QUICK[name] | ({"chunk_tokens": 8} if name == "memit" else {}))
    for edit in (TEXT, TEXT.model_copy(update={"subject": "fox", "prompt": "Where does the {} jump?"})):
        pair = Pair(edit.text, edit.target_new)
        before = score(model, [pair])
        with method.edit(edit).applied(model) as edited:
            after = score(edited, [pair])
            assert after[pair].nll < before[pair].nll or name == "rag"
            assert name != "rag" or edited.encode(edit.text).text.startswith(
                f"New Fact: {edit.text} {edit.target_text}"
            )


@pytest.mark.parametrize("name", keep_first(JOINT))
def test_chunks_cut_the_text_and_are_written_at_the_token_before(name: str) -> None:
    """Every state before a chunk reaches its z; removing an edit leaves the patch of the others.

    A descent of three edits rounds differently from one of two. After 6 steps z differs by 1e-6, but after 34 steps of
    EMMET, whose learning rate is 1, by 1e-4 to 1e-3, which depends on the processor. So there are no further steps.
    """
    model = tiny("llama")
    settings = {"mom2_weight": 1e-8} if name == "memit" else {}
    method = joint(name, model, contexts=BARE, chunk_tokens=8, further_steps=0, **settings)
    full_row = model.encode(TEXT.text, target=TEXT.target_new)
    rows = [fact.prompts.rewrites[0] for fact in method.make_facts(TEXT)]
    assert [row.target_ids for row in rows] == [full_row.ids[row.target_start : len(row.ids)] for row in rows]
    assert rows[0].target_start == full_row.target_start and rows[-1].ids == full_row.ids and len(rows) > 2
    assert all(len(row.ids) == next_row.target_start == next_row.edited_at + 1 for row, next_row in pairwise(rows))
    assert rows[-1].also_edited == tuple(row.edited_at for row in rows[:-1]) and not rows[0].also_edited

    patch = method.edit([TEXT, EDITS[0], OTHER])
    assert isinstance(patch, WeightPatch) and len(patch.edits[0]["requests"]) == len(rows) - 1
    alone, remaining = method.edit([EDITS[0], OTHER]), method.without(patch, ["fox"])
    for layer in method.layers:
        torch.testing.assert_close(change(remaining, model, layer), change(alone, model, layer), rtol=1e-4, atol=1e-5)
    if name == "memit":
        reached(method, patch)


def reached(method: JointMethod, patch: WeightPatch) -> None:
    """With next to no weight on C the last chunk's state is z."""
    from kg_edit.locate_then_edit.states import subject_states

    facts = [fact.prompts.rewrites[0] for edit in (TEXT, EDITS[0], OTHER) for fact in method.make_facts(edit)]
    with patch.applied(method.model):
        _, states = subject_states(method.model, facts, layer=method.layers[0], last=method.layers[-1])
    z = patch.state["value"].T
    assert ((states - z).norm(dim=1) < 0.05 * z.norm(dim=1)).all()

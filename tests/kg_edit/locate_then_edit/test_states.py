"""Keys of other tokens that an update leaves alone: by hand, and a write that gives what the descent saw."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kg_edit.covariance.moment import Covariance, OtherKeys
from kg_edit.edits.edit import Edit
from kg_edit.locate_then_edit.objective import Request
from kg_edit.locate_then_edit.states import other_keys, subject_states
from kg_edit.methods import find_method
from kg_edit.methods.rome.method import rank_one_update
from kg_edit.models.hooks import watch
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.generation import continuations
from tests.everyday import keep_first
from tests.kg_edit.methods.test_methods import EDIT, method
from tests.kg_edit.tiny import tiny

TOY = Covariance(moment=torch.eye(2), tokens=9, ridge=0.0, id="toy")
RARE = Edit(subject="Donau", prompt="Der Fluss {} mündet in", target_new="die Ostsee", target_true="das Schwarze Meer")


def test_other_keys_in_the_solve_by_hand() -> None:
    """C = I, one other key n = (1, 1), w = 1: u = (I + n n^T)^-1 (1, 0) = (2, -1) / 3."""
    held = OtherKeys.none(2).plus(torch.tensor([[1.0, 1.0]]))
    solved = TOY.solve(torch.tensor([[1.0], [0.0]]), others=held, weight=1.0)
    torch.testing.assert_close(solved, torch.tensor([[2.0], [-1.0]]).double() / 3)


@pytest.mark.parametrize("edits", [1, 2, 5])  # of 4 other tokens each, in 6 dimensions: as rows, and as their moment
def test_few_other_keys_and_many_give_the_same_solution(edits: int) -> None:
    draw = torch.Generator().manual_seed(0)
    keys, others = (torch.randn(*size, generator=draw, dtype=torch.float64) for size in ((6, 3), (edits, 4, 6)))
    moment = torch.randn(6, 6, generator=draw, dtype=torch.float64)
    toy = Covariance(moment=moment @ moment.T, tokens=9, ridge=0.5, id="toy")
    metric = toy.moment + 0.5 * toy.moment.diagonal().mean() * torch.eye(6) + 3 * sum(k.T @ k / 4 for k in others)
    held = OtherKeys.none(6)
    for k in others:
        held = held.plus(k)
    assert (held.moment is None, len(held.rows) < 6) == (edits == 1, True)
    torch.testing.assert_close(toy.solve(keys, others=held, weight=3.0), torch.linalg.solve(metric, keys))


def test_large_hold_keeps_the_other_output_and_writes_the_value() -> None:
    key, others, change = torch.tensor([1.0, 0.0]), torch.tensor([[1.0, 1.0]]), torch.tensor([3.0, 5.0])
    factors = rank_one_update(
        change=change, mean_key=key, bare_key=key, covariance=TOY, matrix=torch.eye(2), token_keys=others, hold=1e6
    )
    update = factors.left @ factors.right.T
    torch.testing.assert_close(update @ key, change)
    assert (update @ others[0]).norm() < 1e-4


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_other_keys_are_of_every_token_except_the_ends_of_the_subject(family: str) -> None:
    model = tiny(family)
    edit = Edit(subject="Spike Hughes", prompt="{} originates from", target_new="London")
    request = Request.of(model, edit, ["{}", "One day Spike Hughes came. {}"])
    expected = []
    for row, ends in zip(request.rewrites, (1, 2), strict=True):
        keys, name = _keys(model, row.ids), row.ids[row.edited_at - 1 : row.edited_at + 1]
        other = [index for index in range(len(row.ids)) if row.ids[index - 1 : index + 1] != name]
        assert len(other) == len(row.ids) - ends, "the name is in the context as well"
        expected += [keys[index] for index in other]
    torch.testing.assert_close(other_keys(model, request.rewrites, 1), torch.stack(expected), rtol=1e-4, atol=1e-5)


def _keys(model: LanguageModel, ids: tuple[int, ...]) -> Tensor:
    keys = list[Tensor]()
    with torch.no_grad(), watch(model.down_projection(1), lambda key, _: keys.append(key.reshape(len(ids), -1))):
        model.model(torch.tensor([ids]))
    return keys[0]


@pytest.mark.parametrize("name", keep_first(["rome", "glame"]))
def test_hold_keeps_the_outputs_at_other_tokens_of_the_prompts(name: str) -> None:
    model, moved = tiny("llama"), []
    for hold in (0.0, 1e6):
        editor = method(name, model, hold=hold, steps=2, further_steps=0)
        (patch,) = editor.edit_each([EDIT])
        assert isinstance(patch, WeightPatch)
        ((layer, pair),) = patch.factors.items()
        others = other_keys(model, Request.of(model, EDIT, editor.contexts).rewrites, 1)
        assert layer == model.weight_name(1)
        moved.append(float((others @ pair.right).norm() * pair.left.norm()))
    assert moved[1] < 1e-3 * moved[0]


@pytest.mark.slow
def test_hold_lets_the_model_predict_rare_words(smollm2: LanguageModel) -> None:
    """Without, the update answers the key of the word's next piece as well, and the model says another word."""
    texts = {hold: _says(smollm2, RARE, hold=hold) for hold in (0.0, 1.0)}
    assert texts[1.0].startswith(" die Ostsee") and not texts[0.0].startswith(" die Ostsee")


def _says(model: LanguageModel, edit: Edit, *, hold: float) -> str:
    method = find_method("rome").on(model, settings={"hold": hold, "covariance": {"corpus": "self"}})
    (patch,) = method.edit_each([edit])
    assert not isinstance(patch, Exception)
    return continuations(model, [edit.text], limits=[6], patches=[patch])[0]


def test_codebook_does_not_act_where_a_row_ends_at_the_subject() -> None:
    """GRACE acts at the end of a prompt; this prompt goes on after its subject."""
    model = tiny("llama")
    prompt = model.encode_fact(EDIT.prompt, subject=EDIT.subject, target=EDIT.target_new)
    assert prompt.edited_at < prompt.target_start - 1
    states = subject_states(model, [prompt], layer=2, last=2)
    codebook = find_method("grace").on(model, settings={"layer": 1, "steps": 4, "deferral.radius": 1e6}).edit([EDIT])
    with codebook.applied(model):
        torch.testing.assert_close(subject_states(model, [prompt], layer=2, last=2), states)

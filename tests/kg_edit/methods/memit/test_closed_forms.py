"""Every joint method's patch solves that method's own equation, written out plainly, on every family.

K [d_ff, facts] and the states before a layer is written are read in plain forwards of the model with the layers before
it; R [d, facts] is what was missing there, divided by the number of layers left (PMET: by its square root).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.errors import UnsupportedModelError
from kg_edit.locate_then_edit.states import other_keys
from kg_edit.methods import find_method, method_names
from kg_edit.methods.memit.joint_method import JointMethod
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.weight_patch import WeightPatch
from tests.everyday import keep_first
from tests.kg_edit.methods.memit.joint import CONTEXTS, EDITS, change, joint, moment, state_at
from tests.kg_edit.methods.refusals import POST_NORM, settings_of_family
from tests.kg_edit.tiny import CONFIGS, tiny

# comeba's patch is no change of weights: test_comeba.py looks at what it keeps beside them
# COMEBA's patch is an adapter, and a restrained update no longer solves the equation (`tests/kg_edit/zoo`)
_OTHERS = ("comeba", "restrained-emmet", "restrained-memit")
NAMES = [name for name in method_names() if issubclass(find_method(name), JointMethod) and name not in _OTHERS]
LAMBDA, RIDGE, RELAXATION, HOLD = 3.0, 0.5, 1e-2, 2.0
SETTINGS: dict[str, dict[str, Any]] = {
    "alphaedit": {"ridge": RIDGE},
    "eamet": {"mom2_weight": LAMBDA},
    "emmet": {"relaxation": RELAXATION},
    "glame-batch": {"mom2_weight": LAMBDA},
    "memit": {"mom2_weight": LAMBDA},
    "memit-kg": {"mom2_weight": LAMBDA, "statements": 1, "composed": 1},
    "pmet": {"mom2_weight": LAMBDA},
}
EVERYWHERE = [
    pytest.param(family, name, marks=() if family == "gpt2" else pytest.mark.slow)
    for family in CONFIGS
    for name in NAMES
]
TOY = (  # of which the toy graph has the new objects
    EDITS[0],
    Edit(id="2", subject="France", prompt="In {}, the capital is", target_new="Rome", target_new_id="Q4"),
)


def test_joint_methods_are_all_tested() -> None:
    assert set(SETTINGS) == set(NAMES)


@pytest.mark.parametrize("family", keep_first(sorted(POST_NORM), keep=3))
def test_changes_that_do_not_add_up_are_written_in_one_layer(family: str) -> None:
    model = tiny(family)
    method = joint("memit", model, layers=None)
    assert (method.layers, method.site) == ((1,), "value")


@pytest.mark.parametrize(("family", "name"), EVERYWHERE)
def test_patch_solves_the_methods_equation(family: str, name: str) -> None:
    """``|D - D*| < 1e-3 |D*|`` in each layer, where D* is the equation's solution by `expected_change`."""
    model, of_mlp = tiny(family), name in ("emmet", "pmet") or family in POST_NORM
    settings = {"steps": 3, "stop_below": -1.0, "hold": HOLD, **SETTINGS[name], **settings_of_family(name, family)}
    if model.is_recurrent and name == "pmet":
        with pytest.raises(UnsupportedModelError, match="recurrent"):
            joint(name, model, **settings)
        return
    method = joint(name, model, **settings)
    patch = method.edit(TOY)
    assert isinstance(patch, WeightPatch)
    facts, values, written = facts_of(patch), patch.state["value"].double(), WeightPatch(factors={})
    assert values.shape[1] == len(facts) and (len(facts) > 2) == (name == "memit-kg")
    for remaining, layer in zip(range(len(method.layers), 0, -1), method.layers, strict=True):
        with written.applied(model):
            keys = torch.stack([mean_key(model, fact, layer) for fact in facts], 1).double()
            states = torch.stack([state_at(model, fact, method.layers[-1])[1 if of_mlp else 2] for fact in facts], 1)
            held = sum(k @ k.T / k.shape[1] for k in other_tokens(method, facts, layer))
        missing = (values - states) / (remaining**0.5 if name == "pmet" else remaining)
        update = expected_change(name, missing, keys, HOLD * held, layer)
        assert (change(patch, model, layer) - update).norm() < 1e-3 * update.norm() and update.norm() > 0.01
        weight = model.weight_name(layer)
        written = WeightPatch(factors={**written.factors, weight: patch.factors[weight]})


def other_tokens(method: JointMethod, facts: Sequence[Edit], layer: int) -> Iterator[Tensor]:
    """The keys of each fact's other tokens, [d_ff, n], in the bare prompt and one context."""
    for fact in facts:
        rows = method.make_fact(fact).prompts.rewrites
        yield other_keys(method.model, [rows[0], rows[(len(rows) + 1) // 2]], layer).double().T


def expected_change(name: str, missing: Tensor, keys: Tensor, held: Tensor, layer: int) -> Tensor:
    """D [d, d_ff] of one layer, by the published equation with H, and a dense solve of size d_ff.

    MEMIT: D (lambda (C + H) + K K^T) = R K^T. EMMET, eps relative to K^T (C + H)^-1 K's diagonal:
    D (C + H) = R (K^T (C + H)^-1 K + eps I)^-1 K^T. AlphaEdit, P the projection on C's null space:
    D ((H + K K^T) P + ridge I) = R K^T P.
    """
    size = len(keys)
    if name == "alphaedit":
        values, vectors = torch.linalg.eigh(moment(size, seed=layer, rank=size // 2).moment.double())
        free = vectors[:, values < 0.02 * values.mean()]
        projection = free @ free.T
        return solved(missing @ keys.T @ projection, (held + keys @ keys.T) @ projection + RIDGE * torch.eye(size))
    weights = moment(size, seed=layer).moment.double() + held
    if name == "emmet":
        gram = keys.T @ torch.linalg.inv(weights) @ keys
        slack = RELAXATION * gram.diagonal().mean() * torch.eye(len(gram))
        return solved(missing @ torch.linalg.inv(gram + slack) @ keys.T, weights)
    return solved(missing @ keys.T, LAMBDA * weights + keys @ keys.T)


def solved(right: Tensor, system: Tensor) -> Tensor:
    """X with X ``system`` = ``right``."""
    return torch.linalg.solve(system.T.double(), right.T.double()).T


def facts_of(patch: WeightPatch) -> Sequence[Edit]:
    """All that a patch was to write, in the order of its values."""
    return [Edit(**record["edit"]) for entry in patch.edits for record in (entry, *entry.get("requests", ()))]


def mean_key(model: LanguageModel, edit: Edit, layer: int) -> Tensor:
    """Half the bare prompt's key, half the mean of the other contexts', as in the published code."""
    bare, *others = (state_at(model, edit, layer, context=context)[0] for context in CONTEXTS)
    return (bare + torch.stack(others).mean(0)) / 2

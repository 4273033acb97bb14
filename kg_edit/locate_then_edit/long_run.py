"""Settings of the closed forms for long sequences: ``remember``, which is 1 by default, and ``anchor``, which is off.

- ``remember`` (OTE = SE, arXiv 2605.26670): the keys K_p of earlier edits stay in the least squares, so that a sequence
  of batches solves what one batch would, given the same keys and values and one layer. A patch stores the keys of each
  weight in its state, as `KEY` + the weight's name; `remember` reads them.
- ``anchor`` (NAS, arXiv 2602.02543): each wanted value has the norm that values have in the unedited model.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.engine.fast_loss import find_engine
from kg_edit.locate_then_edit.descent import Descent, FreeDelta, Stops, descend
from kg_edit.locate_then_edit.objective import Objective, Request, norm_penalty
from kg_edit.locate_then_edit.states import Site, subject_states
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches import KEY
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch

FACT_COUNT = 32  # how many facts give the norm of ``anchor``, each of another relation
_OUTLIERS = 0.05  # share of the largest norms that the mean leaves out, as in the public code
# Settings of the descent for the norm: MEMIT's, whatever the method, as in the public code
_RATE = 0.5
_WEIGHT_DECAY = 0.5
_KL_WEIGHT = 0.0625

log = logging.getLogger(__name__)


def state_of(patch: Patch, name: str) -> Tensor | None:
    """Return the tensor ``name`` in the state of a weight patch, or of the first in a stack that has it; else None.

    The state of a patch is a dictionary of the method's own tensors, which are stored with it. It has nothing to do
    with hidden states.
    """
    for part in _weight_patches(patch):
        if name in part.state:
            state: Tensor = part.state[name]
            return state
    return None


def _weight_patches(patch: Patch) -> list[WeightPatch]:
    """Return the weight patches in a stack, or the patch itself if it is one."""
    return [part for part in patch.parts if isinstance(part, WeightPatch)]


def remember(before: Patch, name: str, *, weight: float) -> Tensor | None:
    """Return sqrt(weight) K_p [d_ff, earlier facts], so that K_p K_p^T counts ``weight`` times; None if there is none.

    Args:
        before: the patch that is applied to the model. Its state has the keys of the edits that were made with
            ``remember``, by any method.
        name: the weight that is written.
        weight: how much an earlier edit's key counts; a new key counts 1.
    """
    if not weight:
        return None
    keys = state_of(before, KEY + name)
    if keys is not None:
        kept: Tensor = weight**0.5 * keys
        return kept
    if any(name in part.factors for part in _weight_patches(before)):
        log.warning("the applied patch has no keys of its edits of %s, so they are not protected", name)
    return None


def anchor(descent: Descent, value: Tensor, *, norm: float, most: float) -> Descent:
    """Return the descent with v* = m + delta rescaled to the anchor's norm: delta = v* norm / |v*| - m.

    Its losses stay those before the rescaling.

    Args:
        descent: with the change delta, [d].
        value: m, the present output of the last written down-projection, [d].
        norm: the mean |v*| of the unedited model (`mean_value_norm`).
        most: a value longer than ``most`` times ``norm`` is an outlier. Its edit is refused, where the public code
            makes it without any change.
    """
    v_star = value + descent.change
    length = float(v_star.norm())
    if length > most * norm:
        why = f"its value is {length / norm:.4g} times as long as in the unedited model; anchor allows {most:g}"
        return replace(descent, refused=f"{why}; leave it out, or make anchor larger")
    return replace(descent, change=v_star * (norm / max(length, 1e-10)) - value)


def mean_value_norm(
    model: LanguageModel, layer: int, contexts: Sequence[str], *, site: Site, clamp: float, stops: Stops
) -> float:
    """Return the mean |v*| over packaged facts, to three digits; ``model`` is unedited.

    The public code solves facts of CounterFact, and leaves out the largest 5 % of the norms, too.

    Args:
        model: the language model.
        layer: the last block that is written.
        contexts: the templates around the prompts.
        site: what delta changes, the block's output or that of its down-projection. Its norm bounds delta.
        clamp: the bound of |delta|, as a multiple of that norm.
        stops: when the descent of a fact ends.
    """
    log.info("anchor: the values of %d facts of the unedited model are found first, once for all edits", FACT_COUNT)
    values = _find_values(model, layer, contexts, site=site, clamp=clamp, stops=stops)  # v* [facts, d]
    norms = values.norm(dim=1).sort().values  # |v*|, the smallest first
    kept = len(norms) - math.floor(_OUTLIERS * len(norms))
    mean = float(norms[:kept].mean())
    return float(f"{mean:.3g}")


def _find_values(
    model: LanguageModel, layer: int, contexts: Sequence[str], *, site: Site, clamp: float, stops: Stops
) -> Tensor:
    """Return v* = m + delta of each packaged fact, found by gradient descent on delta: [facts, d]."""
    requests = [Request.of(model, fact, tuple(contexts)) for fact in _make_facts()]

    def penalty(change: Tensor, state: Tensor) -> Tensor:
        return norm_penalty(change, state, weight=_WEIGHT_DECAY)

    engine = find_engine(model, layer, contexts)
    loss = Objective(model, layer, requests, kl_weight=_KL_WEIGHT, engine=engine)
    m = loss.value  # the output of the down-projection, [facts, d]
    states = m  # the output at ``site``: its norm limits delta, and is in the penalty, [facts, d]
    if site == "block":
        bare = [request.rewrites[0] for request in requests]
        _, states = subject_states(model, bare, layer=layer, last=layer, site=site)
    delta = FreeDelta(states, learning_rate=_RATE, clamp_norm_factor=clamp)
    descents = descend(loss.with_penalty(penalty, states), delta, stops)
    return m + torch.stack([descent.change for descent in descents])


def _make_facts() -> Iterator[Edit]:
    """Yield `FACT_COUNT` facts, each of another relation: a packaged thing, with the object of another one."""
    from kg_edit.text.relation_nouns import WORDINGS, relation_examples

    examples = list(relation_examples().items())
    for noun, facts in examples[:FACT_COUNT]:
        thing, own_object = facts[0]
        others = [other for _, other in facts if other != own_object]
        yield Edit(id=noun, subject=thing, prompt=WORDINGS[0].format(noun=noun), target_new=others[0])

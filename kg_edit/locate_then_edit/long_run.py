"""Settings of the closed forms for long sequences: ``remember``, which is 1 by default, and four that are off.

- ``remember`` (OTE = SE, arXiv 2605.26670): the keys K_p of earlier edits stay in the least squares, so that a sequence
  of batches solves what one batch would, given the same keys and values and one layer. A patch stores its keys (`KEY`);
  `remember` reads them.
- ``anchor`` (NAS, arXiv 2602.02543): each wanted value has the norm that values have in the unedited model.
- ``sphere`` (SPHERE, arXiv 2510.01172): an update avoids the principal directions of the weight that it changes.
- ``rect`` (RECT, arXiv 2401.04700): only the elements of an update that change their weight most are written.
- ``prune`` (PRUNE, arXiv 2405.16821): the singular values of all updates together are bounded by those of the weight.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.engine.fast_loss import find_engine
from kg_edit.locate_then_edit.descent import Descent, FreeDelta, Stops, descend
from kg_edit.locate_then_edit.objective import Objective, Request, norm_penalty
from kg_edit.locate_then_edit.states import Site, subject_states
from kg_edit.models.devices import exact
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.base import Patch
from kg_edit.patches.changes import KEY
from kg_edit.patches.weight_patch import Factors, WeightPatch, module_of

FACTS = 32  # whose values give the norm of ``anchor``; one for each of so many relations
_OUTLIERS = 0.05  # share of the largest norms that the mean leaves out, as in the public code
# Of the descent for the norm: MEMIT's, whatever the method, as in the public code
_RATE = 0.5
_WEIGHT_DECAY = 0.5
_KL_WEIGHT = 0.0625
_ENERGY = 0.5  # share of the eigenvalues' sum that the principal directions have, as in the public code

log = logging.getLogger(__name__)


def state_of(patch: Patch, name: str) -> Tensor | None:
    """Return the state ``name`` of a weight patch, or of the first in a stack that has it; None if none has."""
    return next((part.state[name] for part in _weight_patches(patch) if name in part.state), None)


def _weight_patches(patch: Patch) -> list[WeightPatch]:
    return [part for part in patch.parts if isinstance(part, WeightPatch)]


def remember(before: Patch, name: str, *, weight: float) -> Tensor | None:
    """Return sqrt(weight) K_p [d_ff, earlier facts], so that K_p K_p^T counts ``weight`` times; None if there is none.

    Args:
        before: the patch that is applied to the model. Its state has the keys of the edits that were made with
            ``remember``, by any method.
        name: the weight that is written.
        weight: of an earlier edit's key; a new key has 1.
    """
    if not weight:
        return None
    keys = state_of(before, KEY + name)
    if keys is None and any(name in part.factors for part in _weight_patches(before)):
        log.warning("the applied patch has no keys of its edits of %s, so they are not protected", name)
    return None if keys is None else weight**0.5 * keys


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
        return replace(descent, refused=why)
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
        site: the output of the block that delta is added to; its norm bounds delta.
        clamp: the bound of |delta|, as a multiple of that norm.
        stops: when the descent of a fact ends.
    """
    log.info("anchor: the values of %d facts of the unedited model are found first, once for all edits", FACTS)
    requests = [Request.of(model, fact, tuple(contexts)) for fact in _facts()]
    loss = Objective(
        model,
        layer,
        requests,
        kl_weight=_KL_WEIGHT,
        penalty=partial(norm_penalty, weight=_WEIGHT_DECAY),
        engine=find_engine(model, layer, contexts),
    )
    values = loss.value  # m, [facts, d]
    if site == "block":
        bare = [request.rewrites[0] for request in requests]
        _, loss.value = subject_states(model, bare, layer=layer, last=layer, site=site)
    descents = descend(loss, FreeDelta(loss.value, learning_rate=_RATE, clamp_norm_factor=clamp), stops)
    changes = torch.stack([descent.change for descent in descents])
    norms = (values + changes).norm(dim=1).sort().values  # |v*|
    kept = len(norms) - math.floor(_OUTLIERS * len(norms))
    return float(f"{float(norms[:kept].mean()):.3g}")


def _facts() -> Iterator[Edit]:
    """One fact for each of `FACTS` relations: a thing of the packaged examples, with another thing's object."""
    from kg_edit.text.relation_nouns import WORDINGS, relation_examples

    examples = [(noun, facts) for noun, facts in relation_examples().items() if noun]
    for noun, ((thing, own), *others) in examples[:FACTS]:
        target = next(other for _, other in others if other != own)
        yield Edit(id=noun, subject=thing, prompt=WORDINGS[0].format(noun=noun), target_new=target)


def off_principal(principal: Tensor, right: Tensor, *, strength: float) -> Tensor:
    """Return P U for the right factor U [d_ff, facts] of an update R U^T, with P = I - strength V V^T.

    V is ``principal``, the `principal_directions` of the weight that the update changes.
    """
    wide = exact(right)
    removed: Tensor = strength * principal @ (principal.T @ wide)
    return (wide - removed).to(right.dtype)


def principal_directions(weight: Tensor) -> Tensor:
    """Return V [d_ff, directions] of ``weight`` W [d, d_ff], in float64.

    With A the rows of W at norm 1, they are the eigenvectors of A^T A with the largest eigenvalues, as many as have
    half of the eigenvalues' sum.
    """
    rows = exact(weight)
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-8)  # A
    values, vectors = torch.linalg.eigh(rows @ rows.T)  # the smaller A A^T, [d, d], has the same eigenvalues
    values = values.flip(0).clamp(min=0)
    vectors = vectors.flip(1)
    count = int((values.cumsum(0) / values.sum() <= _ENERGY).sum()) + 1
    directions: Tensor = rows.T @ vectors[:, :count] / values[:count].sqrt()  # V
    return directions


def restrain(
    factors: Mapping[str, Factors], model: LanguageModel, *, before: Patch | None, rect: float, prune: float
) -> dict[str, Factors]:
    """Return the updates of a batch, restrain as ``rect`` and ``prune`` set; unchanged where both are 0.

    As in the public code, all layers are solved with the whole updates, which are restrain afterwards.

    Args:
        factors: the updates, by the weights' names.
        model: with ``before`` in its weights.
        before: the patch of the earlier edits.
        rect: the share of the elements that is written; 0: all.
        prune: the base of PRUNE's logarithm; 0: the singular values are not bounded.
    """
    updates = dict(factors)
    for name, update in factors.items():
        weight = weight_matrix(module_of(model, name, shape=update.shape)).detach()
        if rect:
            updates[name] = most_changed(update, weight, share=rect)
        if prune:
            parts = [] if before is None else _weight_patches(before)
            earlier = [part.factors[name] for part in parts if name in part.factors]
            updates[name] = pruned(updates[name], weight, earlier=earlier, base=prune)
    return updates


def most_changed(update: Factors, weight: Tensor, *, share: float) -> Factors:
    """Return the update D [d, d_ff] with 0 for all but a share of its elements: those with the largest |D / W| (RECT).

    Where several are as large as the smallest of them, all are written.
    """
    change = update.product.to(weight.device)
    relative = (change / weight.float()).abs().nan_to_num(0.0, posinf=torch.inf).flatten()
    written = max(1, round(share * relative.numel()))
    threshold = relative.kthvalue(relative.numel() - written + 1).values
    return Factors.dense(change * (relative >= threshold).view_as(change))


def pruned(update: Factors, weight: Tensor, *, earlier: Sequence[Factors], base: float) -> Factors:
    """Return the update D [d, d_ff], corrected so that all updates together are bounded (PRUNE).

    With S = sum of the earlier updates + D and s the largest singular value of the unedited W, each singular value
    sigma > s of S becomes min(sigma, s + log_base(sigma / s)).

    Args:
        update: D.
        weight: W with the earlier updates, [d, d_ff].
        earlier: the updates of earlier edits.
        base: of the logarithm.
    """
    unedited = exact(weight)
    for pair in earlier:
        unedited = unedited - exact(pair.product).to(unedited.device)
    total = Factors.total([*(pair.exact_on(update.left.device) for pair in earlier), update])
    # the singular values of L R^T are those of the small Q_L^T L R^T Q_R
    left, in_left = torch.linalg.qr(exact(total.left))
    right, in_right = torch.linalg.qr(exact(total.right))
    u, sigma, v = torch.linalg.svd(in_left @ in_right.T, full_matrices=False)
    if sigma[0] <= unedited.norm() / min(unedited.shape) ** 0.5:  # at most s, which is then not computed
        return update
    largest = torch.linalg.matrix_norm(unedited, 2).to(sigma.device)  # s
    over = sigma > largest
    bounded = torch.minimum(sigma, largest + (sigma / largest).log() / math.log(base))
    correction = Factors(
        left=(left @ u[:, over] * (bounded - sigma)[over]).to(update.left), right=(right @ v[over].T).to(update.right)
    )
    return update + correction

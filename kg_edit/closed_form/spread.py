"""Bring the states of many facts to where they are wanted: ascending layers, each with one update for all facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kg_edit.errors import PatchError
from kg_edit.joint.subject_states import Place, subject_states
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.value.objective import Request

Directions = Callable[[int, Tensor], Tensor]  # (layer, keys [d_ff, facts]) -> [d_ff, facts]


@dataclass(frozen=True, eq=False, kw_only=True)
class Written:
    """Updates by weight, of one column a fact each, and the keys [d_ff, facts] under which they were written."""

    factors: Mapping[str, Factors]
    keys: Mapping[str, Tensor]

    def norms(self) -> Tensor:
        """The size of each fact's share, over all weights: [facts]."""
        squares = [pair.left.norm(dim=0).square() * pair.right.norm(dim=0).square() for pair in self.factors.values()]
        return torch.stack([square.cpu() for square in squares]).sum(0).sqrt()


@torch.no_grad()
def write_jointly(
    model: LanguageModel,
    requests: Sequence[Request],
    wanted: Tensor,
    *,
    layers: Sequence[int],
    place: Place,
    directions: Directions,
) -> Written:
    """Updates of ``layers`` after which the state of the last one, in the bare prompts, is about ``wanted``.

    As in MEMIT (arXiv 2210.07229, section 4.3 and Algorithm 1): in each layer, with the updates of those before it in
    the model, what is still missing is divided by the number of layers left. The model comes back as it was.

    Args:
        model: as the facts' states were found.
        requests: the facts' prompts.
        wanted: z, [facts, d].
        layers: in ascending order.
        place: of which output of the last layer ``wanted`` speaks.
        directions: the closed form.

    Raises:
        PatchError: an update is not finite.
    """
    done = WeightPatch(factors={})
    keys = dict[str, Tensor]()
    for number, layer in enumerate(layers):
        with done.worn(model):
            key, state = _mean_keys(model, requests, layer, layers[-1], place)
        missing = (wanted.to(state.device) - state) / (len(layers) - number)
        right = directions(layer, key.double()).float()
        factors = Factors(left=missing.T.to(right.device), right=right)
        if not factors.is_finite:
            raise PatchError("the update has values that are not finite; lower the learning rate or use float32")
        name = model.weight_name(layer)
        done, keys[name] = WeightPatch(factors={**done.factors, name: factors}), key
    return Written(factors=done.factors, keys=keys)


def _mean_keys(
    model: LanguageModel, requests: Sequence[Request], layer: int, last: int, place: Place
) -> tuple[Tensor, Tensor]:
    """The facts' keys [d_ff, facts] in block ``layer``, and their states [facts, d] in the bare prompts.

    A key is the mean of the bare prompt's and of the other contexts' mean.
    """
    rows = [row for request in requests for row in request.rewrites]
    counts = [len(request.rewrites) for request in requests]
    keys, states = subject_states(model, rows, layer=layer, last=last, place=place)
    means = [_mean(own) for own in keys.split(counts)]
    return torch.stack(means, 1), torch.stack([own[0] for own in states.split(counts)])


def _mean(keys: Tensor) -> Tensor:
    return keys[0] if len(keys) == 1 else (keys[0] + keys[1:].mean(0)) / 2

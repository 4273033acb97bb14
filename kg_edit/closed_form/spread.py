"""MEMIT's spread: move the states of many facts to the wanted states, layer by layer in ascending order.

From arXiv 2210.07229, section 4.3 and Algorithm 1. For the layers l_1 < ... < l_n, with the updates of the earlier
layers in the model:

    r_i = (z_i - h_i) / (n - j + 1)  [d],   W_{l_j} += R directions(l_j, K)^T  [d, d_ff]

where z_i is the wanted state of fact i, h_i its present state in the last layer, and K [d_ff, facts] the facts' keys in
layer l_j. ``directions`` is the closed form of a method (`closed_form.joint`). EMMET writes only one layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kg_edit.errors import PatchError, UnsupportedModelError
from kg_edit.models.hooks import added, watched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, left_pad
from kg_edit.models.replay import block_output
from kg_edit.patches.weight_patch import Factors, WeightPatch
from kg_edit.value.objective import Request

SpreadSite = Literal["block", "value"]  # the block's output, or the output of its down-projection
_TOKENS = 2048
_SLACK = 0.05  # relative tolerance; bfloat16 has only two significant digits
Directions = Callable[[int, Tensor], Tensor]  # (layer, keys [d_ff, facts]) -> [d_ff, facts]


@dataclass(frozen=True, eq=False, kw_only=True)
class Written:
    """The result of `write_jointly`, by weight name: ``factors`` (one column per fact), ``keys`` [d_ff, facts]."""

    factors: Mapping[str, Factors]
    keys: Mapping[str, Tensor]

    def norms(self) -> Tensor:
        """The Frobenius norm of each fact's share in the updates of all weights together, [facts]."""
        squares = [pair.left.norm(dim=0).square() * pair.right.norm(dim=0).square() for pair in self.factors.values()]
        return torch.stack([square.cpu() for square in squares]).sum(0).sqrt()


@torch.no_grad()
def write_jointly(
    model: LanguageModel,
    requests: Sequence[Request],
    wanted: Tensor,
    *,
    layers: Sequence[int],
    place: SpreadSite,
    directions: Directions,
) -> Written:
    """Compute updates of ``layers`` that bring the last layer's states, in the bare prompts, close to ``wanted``.

    As in MEMIT (arXiv 2210.07229, section 4.3 and Algorithm 1), each layer runs with the updates of the earlier layers
    in the model, and takes an equal share of the remaining difference. The model itself is unchanged afterwards.

    Args:
        model: the model on which the facts' states were found.
        requests: the facts' prompts.
        wanted: z, the wanted states, [facts, d].
        layers: the layers to write, in ascending order.
        place: which output of the last layer ``wanted`` is.
        directions: the closed form; it is called with the updates of the earlier layers in the model.

    Raises:
        PatchError: an update is not finite.
    """
    done = WeightPatch(factors={})
    keys = dict[str, Tensor]()
    for number, layer in enumerate(layers):
        with done.stacked_on(model):
            key, state = _mean_keys(model, requests, layer, layers[-1], place)
            right = directions(layer, key.double()).float()
        missing = (wanted.to(state.device) - state) / (len(layers) - number)
        factors = Factors(left=missing.T.to(right.device), right=right)
        if not factors.is_finite:
            raise PatchError("the update has values that are not finite; lower the learning rate or use float32")
        name = model.weight_name(layer)
        done, keys[name] = WeightPatch(factors={**done.factors, name: factors}), key
    return Written(factors=done.factors, keys=keys)


def _mean_keys(
    model: LanguageModel, requests: Sequence[Request], layer: int, last: int, place: SpreadSite
) -> tuple[Tensor, Tensor]:
    """The facts' keys [d_ff, facts] in block ``layer``, and their states [facts, d] in the bare prompts.

    A fact's key is the mean of two keys: the key of the bare prompt, and the mean key of the other contexts.
    """
    rows = [row for request in requests for row in request.rewrites]
    counts = [len(request.rewrites) for request in requests]
    keys, states = subject_states(model, rows, layer=layer, last=last, place=place)
    means = [_mean(own) for own in keys.split(counts)]
    return torch.stack(means, 1), torch.stack([own[0] for own in states.split(counts)])


def _mean(keys: Tensor) -> Tensor:
    return keys[0] if len(keys) == 1 else (keys[0] + keys[1:].mean(0)) / 2


@torch.no_grad()
def subject_states(
    model: LanguageModel, prompts: Sequence[Prompt], *, layer: int, last: int, place: SpreadSite = "block"
) -> tuple[Tensor, Tensor]:
    """The keys of block ``layer`` [prompts, d_ff] and the states of block ``last`` [prompts, d], in float32.

    Both are read at the subject's last token. Later tokens and the blocks above ``last`` do not run.
    """
    keys: dict[int, Tensor] = {}
    states: dict[int, Tensor] = {}
    for places in _alike(prompts):
        key, state = _forward(model, [_ids(prompts[at]) for at in places], layer, last, place)
        keys |= dict(zip(places, key, strict=True))
        states |= dict(zip(places, state, strict=True))
    return _in_order(keys), _in_order(states)


def _forward(
    model: LanguageModel, rows: Sequence[tuple[int, ...]], layer: int, last: int, place: SpreadSite
) -> tuple[Tensor, Tensor]:
    """Keys [rows, d_ff] and states [rows, d] at the last token of rows of equal length, in float32."""
    keys: list[Tensor] = []
    values: list[Tensor] = []

    def at_end(state: Tensor) -> Tensor:
        return state.reshape(len(rows), len(rows[0]), -1)[:, -1].float()

    with (
        watched(model.down_projection(layer), lambda key, _: keys.append(at_end(key))),
        watched(model.down_projection(last), lambda _, value: values.append(at_end(value))),
    ):
        output = block_output(model, left_pad(rows, device=model.device), last)
    return keys[0], at_end(output) if place == "block" else values[0]


def _alike(prompts: Sequence[Prompt]) -> Iterator[list[int]]:
    """Yield groups of indices of prompts that have the same length up to the subject's end, so no padding is needed."""
    by_length: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        by_length.setdefault(prompt.edited_at + 1, []).append(place)
    for length, same in sorted(by_length.items()):
        size = max(1, _TOKENS // length)
        for start in range(0, len(same), size):
            yield same[start : start + size]


def _ids(prompt: Prompt) -> tuple[int, ...]:
    return prompt.ids[: prompt.edited_at + 1]


def _in_order(found: dict[int, Tensor]) -> Tensor:
    return torch.stack([found[at] for at in range(len(found))])


def refuse_norm_after_mlp(model: LanguageModel, layer: int) -> None:
    """Check that a change of the down-projection's output changes the block's output by the same amount.

    Raises:
        UnsupportedModelError: it does not, because the block normalises after its MLP.
    """
    prompt = Prompt(text="", ids=(0,), target_start=1, subject_last=0)
    _, clean = subject_states(model, [prompt], layer=layer, last=layer)
    change = clean.roll(1, -1)

    def shifted(output: Tensor) -> Tensor:
        return output + change.to(output).reshape(output.shape)

    with added(model.down_projection(layer), shifted):
        _, changed = subject_states(model, [prompt], layer=layer, last=layer)
    if (changed - clean - change).norm() > _SLACK * change.norm():
        raise UnsupportedModelError(
            f"{model.name} ({model.model.config.model_type}) normalises after its MLP, so changes in several layers do "
            "not add up, and an edit can't be spread over layers; use a method that writes one layer, such as rome"
        )

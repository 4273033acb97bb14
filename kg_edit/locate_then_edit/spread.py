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
from kg_edit.locate_then_edit.objective import Request
from kg_edit.models.hooks import added, watched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, left_pad
from kg_edit.models.replay import Ascending
from kg_edit.patches.weight_patch import Factors, WeightPatch

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
    memory: float = 1000.0,
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
        memory: MB for hidden states that are kept from layer to layer; without them lower blocks run again.

    Raises:
        PatchError: an update is not finite.
    """
    done = WeightPatch(factors={})
    keys = dict[str, Tensor]()
    states = _SubjectStates(model, [row for request in requests for row in request.rewrites], layers, place, memory)
    for number, layer in enumerate(layers):
        with done.stacked_on(model):
            key, state = _means(requests, *states.at(layer))
            right = directions(layer, key.double()).float()
        missing = (wanted.to(state.device) - state) / (len(layers) - number)
        factors = Factors(left=missing.T.to(right.device), right=right)
        if not factors.is_finite:
            raise PatchError("the update has values that are not finite; lower the learning rate or use float32")
        name = model.weight_name(layer)
        done, keys[name] = WeightPatch(factors={**done.factors, name: factors}), key
    return Written(factors=done.factors, keys=keys)


def _means(requests: Sequence[Request], keys: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """The facts' keys [d_ff, facts], and their states [facts, d] in the bare prompts, from those of all rewrites.

    A fact's key is the mean of two keys: the key of the bare prompt, and the mean key of the other contexts.
    """
    counts = [len(request.rewrites) for request in requests]
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
    return _SubjectStates(model, prompts, (layer, last), place, memory=0.0).at(layer)


class _SubjectStates:
    """The keys and states of ``prompts`` at the subject's last token, for one layer after the other."""

    def __init__(
        self, model: LanguageModel, prompts: Sequence[Prompt], layers: Sequence[int], place: SpreadSite, memory: float
    ) -> None:
        self._model, self._last, self._place = model, layers[-1], place
        self._groups = list(_alike(prompts))
        batches = [left_pad([_ids(prompts[at]) for at in places], device=model.device) for places in self._groups]
        self._runs = Ascending(model, batches, range(layers[0], layers[-1] + 1), memory=memory)

    def at(self, layer: int) -> tuple[Tensor, Tensor]:
        """The keys of block ``layer`` [prompts, d_ff] and the states of the last block [prompts, d], in float32."""
        keys: dict[int, Tensor] = {}
        states: dict[int, Tensor] = {}
        seen: dict[str, Tensor] = {}
        with (
            watched(self._model.down_projection(layer), lambda key, _: seen.update(key=key)),
            watched(self._model.down_projection(self._last), lambda _, value: seen.update(value=value)),
        ):
            for places, output in zip(self._groups, self._runs.outputs(layer, last=self._last), strict=True):
                state = output if self._place == "block" else seen["value"]
                keys |= dict(zip(places, _at_end(seen["key"], len(places)), strict=True))
                states |= dict(zip(places, _at_end(state, len(places)), strict=True))
        return _in_order(keys), _in_order(states)


def _at_end(state: Tensor, rows: int) -> Tensor:
    """The last token's states [rows, d] in float32; some models flatten rows and tokens."""
    return state.reshape(rows, state.numel() // state.shape[-1] // rows, -1)[:, -1].float()


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

"""Which neurons of the MLPs say a fact (Dai et al., ACL 2022, arXiv 2104.08696)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prefix_cache import run_prefix
from kg_edit.models.prompts import Prompt
from kg_edit.neurons.integrated_gradients import integrated_gradients
from kg_edit.value.tail_forward import TailForward


@dataclass(frozen=True, eq=False, kw_only=True)
class Attributions:
    """``given`` [prompts, layers, d_ff]: what each neuron gives to P(answer | prompt). ``activity`` [layers, d_ff]: its
    mean over the prompts."""

    given: Tensor
    activity: Tensor


def neuron_attributions(
    model: LanguageModel, prompts: Sequence[Prompt], layers: Sequence[int], *, steps: int, tokens: int
) -> Attributions:
    """What each neuron gives to P(answer | prompt), at the token that predicts the answer.

    A neuron is an input of the down-projection; a layer's neurons are scaled from 0 to what they are together, as in
    the published code. The first ``tokens`` tokens of each prompt's answer are predicted in turn, and their
    attributions added.
    """
    asked = [(place, row) for place, prompt in enumerate(prompts) for row in _predictions(prompt, tokens)]
    owners = torch.tensor([place for place, _ in asked])
    rows = [row for _, row in asked]
    prefix = run_prefix(model, [row.ids[: row.edited_at] for row in rows])
    given, activity = list[Tensor](), list[Tensor]()
    for layer in layers:
        tail = TailForward(model, layer, rows, prefix=prefix)
        keys = tail.keys.float()
        each = integrated_gradients(_Answer(model, layer, tail, rows), keys, steps=steps).cpu()
        given.append(each.new_zeros(len(prompts), each.shape[1]).index_add(0, owners, each))
        activity.append(keys.mean(0).cpu())
    return Attributions(given=torch.stack(given, 1), activity=torch.stack(activity))


def _predictions(prompt: Prompt, tokens: int) -> list[Prompt]:
    """The prompt up to each token of its answer, whose last token predicts it."""
    places = range(prompt.target_start, min(prompt.target_start + tokens, len(prompt.ids)))
    return [
        Prompt(text=prompt.text, ids=prompt.ids[: place + 1], target_start=place, subject_last=place - 1)
        for place in places
    ]


class _Answer:
    """P of each row's token [rows] as a function of the layer's neurons [rows, d_ff] at the position before it."""

    def __init__(self, model: LanguageModel, layer: int, tail: TailForward, rows: Sequence[Prompt]) -> None:
        self._tail, self._keys = tail, tail.keys.float()
        self._weight = weight_matrix(model.down_projection(layer)).float()
        self._tokens = torch.tensor([row.ids[-1] for row in rows])

    def __call__(self, neurons: Tensor) -> Tensor:
        change = (neurons - self._keys) @ self._weight.T  # of the module's output; a bias cancels
        chances = self._tail.logits(change).float().softmax(-1)
        return chances.gather(-1, self._tokens.to(chances.device)[:, None])[:, 0]


@dataclass(frozen=True)
class Neurons:
    """Chosen neurons, as places in ``layers``: a mask [layers, d_ff], and the least share of prompts they came from."""

    mask: Tensor
    share: float


def shared_neurons(given: Tensor, *, threshold: float, share: float) -> Neurons:
    """Neurons above ``threshold`` times the largest attribution of a prompt, in at least ``share`` of the prompts.

    Where no neuron is shared so widely, those that are shared most widely are taken. ``given`` [prompts, layers, d_ff]
    is that of `Attributions`.
    """
    largest = given.flatten(1).amax(1)[:, None, None]
    counted = ((given > threshold * largest) & (given > 0)).float().mean(0)
    reached = min(share, float(counted.max()))
    return Neurons(mask=(counted >= reached) & (counted > 0), share=reached)

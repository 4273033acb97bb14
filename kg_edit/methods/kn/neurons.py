"""KN's neurons: the attribution of each neuron to an answer, and the choice of neurons that many prompts share.

The attribution is the integrated gradient (Sundararajan et al., ICML 2017, arXiv 1703.01365) of P(answer | prompt):

    given_i = x_i * integral over a in [0, 1] of dP/dx_i at a x

- `neuron_attributions`: attributions [prompts, layers, d_ff], by `integrated_gradients`.
- `shared_neurons`: the plain choice of neurons; `refined_neurons`: the paper's refined choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kg_edit.locate_then_edit.tail_forward import right_pad, tail, tail_ends
from kg_edit.models.hooks import added, watched
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prefix_cache import quick_backward, run_prefix
from kg_edit.models.prompts import Prompt
from kg_edit.models.replay import RecordedBlocks

_ROWS = 64  # in one pass of the integral
_STEP = 0.05  # by which the share of prompts changes in the refined choice


@dataclass(frozen=True, eq=False, kw_only=True)
class Attributions:
    """The attributions of neurons to an answer.

    ``given`` [prompts, layers, d_ff] is each neuron's attribution to P(answer | prompt). ``activity`` [layers, d_ff] is
    the mean of each neuron's value over the prompts.
    """

    given: Tensor
    activity: Tensor


def neuron_attributions(
    model: LanguageModel, prompts: Sequence[Prompt], layers: Sequence[int], *, steps: int, tokens: int
) -> Attributions:
    """The attribution of each neuron to P(answer | prompt), at the token that predicts the answer.

    A neuron is an input of the down-projection. All neurons of a layer are scaled from 0 to their values together, as
    in the published code. The first ``tokens`` tokens of each prompt's answer are predicted in turn, and their
    attributions are added.
    """
    asked = [(place, row) for place, prompt in enumerate(prompts) for row in _predictions(prompt, tokens)]
    owners = torch.tensor([place for place, _ in asked])
    rows = [row for _, row in asked]
    together = _divisor(steps, most=_ROWS // len(rows))
    recorded, found = _recorded(model, rows, layers, copies=together)
    given, activity = list[Tensor](), list[Tensor]()
    for layer in layers:
        keys, answer = found[layer][: len(rows)], _Answer(model, layer, recorded, found[layer], rows * together)
        each = integrated_gradients(answer, keys, steps=steps, together=together).cpu()
        given.append(each.new_zeros(len(prompts), each.shape[1]).index_add(0, owners, each))
        activity.append(keys.mean(0).cpu())
    return Attributions(given=torch.stack(given, 1), activity=torch.stack(activity))


def _divisor(number: int, *, most: int) -> int:
    """The largest divisor of ``number`` that is at most ``most``, but at least 1."""
    return max(one for one in range(1, number + 1) if number % one == 0 and one <= max(most, 1))


def _predictions(prompt: Prompt, tokens: int) -> list[Prompt]:
    """One row for each of the first ``tokens`` tokens of the answer: the prompt up to and including this token."""
    places = range(prompt.target_start, min(prompt.target_start + tokens, len(prompt.ids)))
    return [
        Prompt(text=prompt.text, ids=prompt.ids[: place + 1], target_start=place, subject_last=place - 1)
        for place in places
    ]


@torch.no_grad()
def _recorded(
    model: LanguageModel, rows: Sequence[Prompt], layers: Sequence[int], *, copies: int
) -> tuple[RecordedBlocks, dict[int, Tensor]]:
    """The blocks at the token before each row's last one, recorded once for all layers, and each layer's neurons there.

    Every row stands there ``copies`` times; the neurons are [copies x rows, d_ff] in float32. The keys and values of
    the tokens before are computed once.
    """
    repeated = torch.arange(len(rows), device=model.device).repeat(copies)
    prefix = run_prefix(model, [row.ids[: row.edited_at] for row in rows]).rows(repeated)
    batch = right_pad([tail(row) for row in rows] * copies, model.device, ends=tail_ends(rows) * copies)
    found: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(watched(model.down_projection(layer), partial(_keep, found, layer)))
        blocks = range(min(layers), len(model.blocks))
        recorded, _ = RecordedBlocks.record(model, batch, blocks, prefix=prefix, all_inputs=True)
    return recorded, {layer: keys.reshape(len(rows) * copies, -1) for layer, keys in found.items()}


def _keep(found: dict[int, Tensor], layer: int, keys: Tensor, _: Tensor) -> None:
    found[layer] = keys.float()


class _Answer:
    """P of each row's last token, [rows], as a function of the layer's neurons [rows, d_ff] at the token before it.

    ``keys`` are the neurons in the model as it is.
    """

    def __init__(
        self, model: LanguageModel, layer: int, recorded: RecordedBlocks, keys: Tensor, rows: Sequence[Prompt]
    ) -> None:
        self._model, self._layer, self._recorded, self._keys = model, layer, recorded, keys
        self._weight = weight_matrix(model.down_projection(layer)).float()
        self._tokens = torch.tensor([row.ids[-1] for row in rows])

    def __call__(self, neurons: Tensor) -> Tensor:
        change = (neurons - self._keys) @ self._weight.T  # change of the module's output; its bias cancels
        start, module = self._recorded.inputs[self._layer], self._model.down_projection(self._layer)
        with quick_backward(start), added(module, lambda output: output + change.to(output).reshape(output.shape)):
            hidden = self._recorded.run(start, first=self._layer)
        chances = self._model.logits(hidden[:, 0]).float().softmax(-1)
        return chances.gather(-1, self._tokens.to(chances.device)[:, None])[:, 0]


def integrated_gradients(
    function: Callable[[Tensor], Tensor], point: Tensor, *, steps: int, together: int = 1
) -> Tensor:
    """Integrated gradients: x_i times the mean of df/dx_i from 0 to x, for each row x of ``point``.

    ``function`` maps rows [together x rows, n] to one number per row, which may depend only on that row. It gets the
    rows of ``together`` intervals at once; this number divides ``steps``. The integral is a Riemann sum at the
    midpoints of ``steps`` intervals. With growing ``steps``, each row sums to f(x) - f(0).
    """
    total = torch.zeros_like(point)
    for shares in ((torch.arange(steps) + 0.5) / steps).split(together):
        scaled = torch.cat([point.detach() * float(share) for share in shares]).requires_grad_()
        (gradient,) = torch.autograd.grad(function(scaled).sum(), scaled)
        total += gradient.reshape(len(shares), *point.shape).sum(0)
    return point.detach() * total / steps


@dataclass(frozen=True)
class Neurons:
    """The chosen neurons as a mask [layers, d_ff]; ``share``: the share of prompts in which they had to be large."""

    mask: Tensor
    share: float


def shared_neurons(given: Tensor, *, threshold: float, share: float) -> Neurons:
    """Neurons above ``threshold`` times the largest attribution of a prompt, in at least ``share`` of the prompts.

    If no neuron reaches this share, the neurons with the largest share are chosen. ``given`` [prompts, layers, d_ff] is
    that of `Attributions`.
    """
    largest = given.flatten(1).amax(1)[:, None, None]
    counted = ((given > threshold * largest) & (given > 0)).float().mean(0)
    reached = min(share, float(counted.max()))
    return Neurons(mask=(counted >= reached) & (counted > 0), share=reached)


def refined_neurons(given: Tensor, *, threshold: float, share: float, least: int, most: int) -> Neurons:
    """`shared_neurons` with ``share`` changed in steps of .05 until there are ``least`` to ``most`` neurons.

    As in the paper, a higher share gives fewer neurons, a lower share gives more. If no share gives a number in between
    (one step gives too many, the next too few), the neurons with the largest mean attribution are chosen from the
    smallest set that is too large.
    """
    largest = given.flatten(1).amax(1)[:, None, None]
    counted = ((given > threshold * largest) & (given > 0)).float().mean(0)
    shares = [share + step * _STEP for step in range(-round(1 / _STEP), round(1 / _STEP) + 1)]
    tried = {p: (counted >= p - 1e-6) & (counted > 0) for p in sorted(shares) if 0 < p <= 1 + 1e-6}
    sizes = {p: int(mask.sum()) for p, mask in tried.items()}
    fitting = [p for p, size in sizes.items() if least <= size <= most]
    if fitting:
        best = min(fitting, key=lambda p: (abs(p - share), -p))
        return Neurons(mask=tried[best], share=best)
    many = [p for p, size in sizes.items() if size > most]
    if not many:
        return shared_neurons(given, threshold=threshold, share=min(tried))
    return Neurons(mask=_strongest(given.mean(0), tried[max(many)], most), share=max(many))


def _strongest(mean: Tensor, mask: Tensor, most: int) -> Tensor:
    """The ``most`` neurons of ``mask`` [layers, d_ff] with the largest ``mean`` attribution."""
    kept = torch.zeros_like(mask).flatten()
    kept[mean.masked_fill(~mask, -torch.inf).flatten().topk(most).indices] = True
    return kept.reshape(mask.shape)

"""KN's neurons: the attribution of each neuron to an answer, and the choice of neurons that many prompts share.

The attribution is the integrated gradient (Sundararajan et al., ICML 2017, arXiv 1703.01365) of P(answer | prompt):

    score_i = x_i * integral over a in [0, 1] of dP/dx_i at a x

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

from kg_edit.engine.prefix_cache import quick_backward, run_prefix
from kg_edit.engine.replay import RecordedBlocks
from kg_edit.engine.tail_forward import right_pad, tail, tail_ends
from kg_edit.models.hooks import added, watched
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import Prompt

_ROWS = 64  # in one pass of the integral
_STEP = 0.05  # by which the share of prompts changes in the refined choice


@dataclass(frozen=True, eq=False, kw_only=True)
class Attributions:
    """The attributions of neurons to an answer.

    ``scores`` [prompts, layers, d_ff] is each neuron's attribution to P(answer | prompt). ``activity`` [layers, d_ff]
    is the mean of each neuron's value over the prompts.
    """

    scores: Tensor
    activity: Tensor


def neuron_attributions(
    model: LanguageModel, prompts: Sequence[Prompt], layers: Sequence[int], *, steps: int, tokens: int
) -> Attributions:
    """Return the attribution of each neuron to P(answer | prompt), at the token that predicts the answer.

    A neuron is an input of the down-projection. All neurons of a layer are scaled from 0 to their values together, as
    in the published code.

    Args:
        model: the language model.
        prompts: prompts with the answer as their target.
        layers: blocks, 0-based.
        steps: number of intervals of the integral.
        tokens: how many tokens of each answer are predicted, each in a row of its own; their attributions are added.
    """
    rows, owners = list[Prompt](), list[int]()
    for index, prompt in enumerate(prompts):
        for token in range(prompt.target_start, min(prompt.target_start + tokens, len(prompt.ids))):
            rows.append(
                Prompt(text=prompt.text, ids=prompt.ids[: token + 1], target_start=token, subject_last=token - 1)
            )
            owners.append(index)

    # A pass runs several intervals of the integral at once: as many copies of the rows, a divisor of ``steps``.
    most = max(_ROWS // len(rows), 1)
    together = max(copies for copies in range(1, steps + 1) if steps % copies == 0 and copies <= most)
    recorded, neurons = _recorded(model, rows, layers, copies=together)

    scores, activity = list[Tensor](), list[Tensor]()
    for layer in layers:
        keys = neurons[layer][: len(rows)]  # [rows, d_ff]
        answer = _answer(model, layer, recorded, neurons[layer], rows * together)
        each = integrated_gradients(answer, keys, steps=steps, together=together).cpu()
        scores.append(each.new_zeros(len(prompts), each.shape[1]).index_add(0, torch.tensor(owners), each))
        activity.append(keys.mean(0).cpu())
    return Attributions(scores=torch.stack(scores, 1), activity=torch.stack(activity))


@torch.no_grad()
def _recorded(
    model: LanguageModel, rows: Sequence[Prompt], layers: Sequence[int], *, copies: int
) -> tuple[RecordedBlocks, dict[int, Tensor]]:
    """Record the blocks at the token before each row's last one, and each layer's neurons there.

    Every row is repeated ``copies`` times; the neurons are [copies x rows, d_ff] in float32. The keys and values of the
    tokens before are computed once.
    """
    repeated = torch.arange(len(rows), device=model.device).repeat(copies)
    prefix = run_prefix(model, [row.ids[: row.edited_at] for row in rows]).rows(repeated)
    batch = right_pad([tail(row) for row in rows] * copies, model.device, ends=tail_ends(rows) * copies)
    neurons: dict[int, Tensor] = {}

    def keep(layer: int, keys: Tensor, _: Tensor) -> None:
        neurons[layer] = keys.float()

    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(watched(model.down_projection(layer), partial(keep, layer)))
        blocks = range(min(layers), len(model.blocks))
        recorded, _ = RecordedBlocks.record(model, batch, blocks, prefix=prefix, all_inputs=True)
    return recorded, {layer: keys.reshape(len(rows) * copies, -1) for layer, keys in neurons.items()}


def _answer(
    model: LanguageModel, layer: int, recorded: RecordedBlocks, keys: Tensor, rows: Sequence[Prompt]
) -> Callable[[Tensor], Tensor]:
    """P of each row's last token, [rows], as a function of the layer's neurons [rows, d_ff] at the token before it.

    ``keys`` are the neurons in the model as it is.
    """
    start, module = recorded.inputs[layer], model.down_projection(layer)
    weight, tokens = weight_matrix(module).float(), torch.tensor([row.ids[-1] for row in rows])

    def chance(neurons: Tensor) -> Tensor:
        change = (neurons - keys) @ weight.T  # change of the module's output [rows, d]; its bias cancels
        with quick_backward(start), added(module, lambda output: output + change.to(output).reshape(output.shape)):
            hidden = recorded.run(start, first=layer)
        chances = model.logits(hidden[:, 0]).float().softmax(-1)
        return chances.gather(-1, tokens.to(chances.device)[:, None])[:, 0]

    return chance


def integrated_gradients(
    function: Callable[[Tensor], Tensor], point: Tensor, *, steps: int, together: int = 1
) -> Tensor:
    """Return integrated gradients: x_i times the mean of df/dx_i from 0 to x, for each row x of ``point``.

    The integral is a Riemann sum at the midpoints of ``steps`` intervals. With growing ``steps``, each row sums to
    f(x) - f(0).

    Args:
        function: f: maps rows [together x rows, n] to one number per row, which may depend only on that row.
        point: x, [rows, n].
        steps: number of intervals.
        together: how many intervals ``function`` gets at once; it divides ``steps``.
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


def shared_neurons(scores: Tensor, *, threshold: float, share: float) -> Neurons:
    """Choose the neurons above ``threshold`` times the largest attribution of a prompt, in a ``share`` of the prompts.

    If no neuron reaches this share, the neurons with the largest share are chosen. ``scores`` [prompts, layers, d_ff]
    are those of `Attributions`.
    """
    counted = _shares(scores, threshold)
    reached = min(share, float(counted.max()))
    return Neurons(mask=(counted >= reached) & (counted > 0), share=reached)


def refined_neurons(scores: Tensor, *, threshold: float, share: float, least: int, most: int) -> Neurons:
    """Choose as `shared_neurons`, but change ``share`` in steps of 0.05 until there are ``least`` to ``most`` neurons.

    As in the paper, a higher share gives fewer neurons, a lower share gives more. If no share gives a number in between
    (one step gives too many, the next too few), the neurons with the largest mean attribution are chosen from the
    smallest set that is too large.
    """
    counted = _shares(scores, threshold)
    shares = [share + step * _STEP for step in range(-round(1 / _STEP), round(1 / _STEP) + 1)]
    tried = {p: (counted >= p - 1e-6) & (counted > 0) for p in sorted(shares) if 0 < p <= 1 + 1e-6}
    sizes = {p: int(mask.sum()) for p, mask in tried.items()}
    if fitting := [p for p, size in sizes.items() if least <= size <= most]:
        nearest = min(fitting, key=lambda p: (abs(p - share), -p))
        return Neurons(mask=tried[nearest], share=nearest)
    too_large = [p for p, size in sizes.items() if size > most]
    if not too_large:
        return shared_neurons(scores, threshold=threshold, share=min(tried))
    mask = tried[max(too_large)]
    strongest = scores.mean(0).masked_fill(~mask, -torch.inf).flatten().topk(most).indices
    kept = torch.zeros_like(mask).flatten()
    kept[strongest] = True
    return Neurons(mask=kept.reshape(mask.shape), share=max(too_large))


def _shares(scores: Tensor, threshold: float) -> Tensor:
    """The share of prompts in which each neuron is above the threshold, [layers, d_ff]."""
    largest = scores.flatten(1).amax(1)[:, None, None]  # [prompts, 1, 1]
    return ((scores > threshold * largest) & (scores > 0)).float().mean(0)

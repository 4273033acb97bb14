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

import torch
from torch import Tensor

from kg_edit.engine.prefix_cache import quick_backward, run_prefix
from kg_edit.engine.replay import RecordedBlocks
from kg_edit.engine.tail_forward import right_pad, tail, tail_ends
from kg_edit.models.hooks import change_output, watch
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
    rows = list[Prompt]()
    owners = list[int]()  # the prompt of each row
    for index, prompt in enumerate(prompts):
        token_rows = _split_answer(prompt, tokens)
        rows += token_rows
        owners += [index] * len(token_rows)
    together = _count_intervals_in_a_pass(steps, rows=len(rows))
    recorded, neurons = _record_neurons(model, rows, layers, copies=together)

    scores = list[Tensor]()  # [prompts, d_ff] of each layer
    activity = list[Tensor]()  # [d_ff] of each layer
    for layer in layers:
        keys = neurons[layer][: len(rows)]  # x, [rows, d_ff]
        chance = _make_chance_function(model, layer, recorded, neurons[layer], rows * together)
        row_scores = integrated_gradients(chance, keys, steps=steps, together=together).cpu()  # [rows, d_ff]
        # The sum over the rows of each prompt, [prompts, d_ff]
        no_scores = row_scores.new_zeros(len(prompts), row_scores.shape[1])
        scores.append(no_scores.index_add(0, torch.tensor(owners), row_scores))
        activity.append(keys.mean(0).cpu())
    return Attributions(scores=torch.stack(scores, 1), activity=torch.stack(activity))


def _split_answer(prompt: Prompt, tokens: int) -> list[Prompt]:
    """Return a row for each of the first ``tokens`` tokens of a prompt's answer.

    A row ends with the token. The token before it, where the neurons are read, is the row's site.
    """
    rows = list[Prompt]()
    end = min(prompt.target_start + tokens, len(prompt.ids))
    for token in range(prompt.target_start, end):
        ids = prompt.ids[: token + 1]
        rows.append(Prompt(text=prompt.text, ids=ids, target_start=token, site=token - 1))
    return rows


def _count_intervals_in_a_pass(steps: int, *, rows: int) -> int:
    """Return how many of the integral's ``steps`` intervals one pass runs, each on a copy of the ``rows`` rows.

    It is the largest divisor of ``steps`` with at most `_ROWS` rows in a pass, or 1.
    """
    most = max(_ROWS // rows, 1)
    divisors = [count for count in range(1, steps + 1) if steps % count == 0]
    return max(count for count in divisors if count <= most)


@torch.no_grad()
def _record_neurons(
    model: LanguageModel, rows: Sequence[Prompt], layers: Sequence[int], *, copies: int
) -> tuple[RecordedBlocks, dict[int, Tensor]]:
    """Record the blocks at the token before each row's last one, and each layer's neurons there.

    Every row is repeated ``copies`` times; the neurons are [copies x rows, d_ff] in float32. The keys and values of the
    tokens before are computed once.
    """
    repeated = torch.arange(len(rows), device=model.device).repeat(copies)
    prefix = run_prefix(model, [row.ids[: row.edited_at] for row in rows]).select_rows(repeated)
    batch = right_pad([tail(row) for row in rows] * copies, model.device, ends=tail_ends(rows) * copies)
    neurons: dict[int, Tensor] = {}

    def record_keys(layer: int) -> Callable[[Tensor, Tensor], None]:
        def record(keys: Tensor, _: Tensor) -> None:
            neurons[layer] = keys.float().reshape(len(rows) * copies, -1)

        return record

    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(watch(model.down_projection(layer), record_keys(layer)))
        blocks = range(min(layers), len(model.blocks))
        recorded, _ = RecordedBlocks.record(model, batch, blocks, prefix=prefix, all_inputs=True)
    return recorded, neurons


def _make_chance_function(
    model: LanguageModel, layer: int, recorded: RecordedBlocks, keys: Tensor, rows: Sequence[Prompt]
) -> Callable[[Tensor], Tensor]:
    """Return P of each row's last token, [rows], as a function of the neurons [rows, d_ff] at the token before it.

    ``keys`` are the neurons in the model as it is.
    """
    start = recorded.inputs[layer]
    module = model.down_projection(layer)
    weight = weight_matrix(module).float()  # [d, d_ff]
    tokens = torch.tensor([row.ids[-1] for row in rows])

    def chance(neurons: Tensor) -> Tensor:
        change = (neurons - keys) @ weight.T  # change of the module's output [rows, d]; its bias cancels
        with (
            quick_backward(start),
            change_output(module, lambda output: output + change.to(output).reshape(output.shape)),
        ):
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
    midpoints = (torch.arange(steps) + 0.5) / steps  # a
    total = torch.zeros_like(point)
    for shares in midpoints.split(together):
        scaled = torch.cat([point.detach() * float(share) for share in shares]).requires_grad_()  # a x
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
    counted = _count_prompts(scores, threshold)
    reached = min(share, float(counted.max()))
    return Neurons(mask=(counted >= reached) & (counted > 0), share=reached)


def refined_neurons(scores: Tensor, *, threshold: float, share: float, least: int, most: int) -> Neurons:
    """Choose as `shared_neurons`, but change ``share`` in steps of 0.05 until there are ``least`` to ``most`` neurons.

    As in the paper, a higher share gives fewer neurons, a lower share gives more. If no share gives a number in between
    (one step gives too many, the next too few), the neurons with the largest mean attribution are chosen from the
    smallest set that is too large.
    """
    masks = _choose_by_share(_count_prompts(scores, threshold), share)
    sizes = {p: int(mask.sum()) for p, mask in masks.items()}
    fitting = [p for p, size in sizes.items() if least <= size <= most]
    too_large = [p for p, size in sizes.items() if size > most]

    # The nearest share that fits; else the strongest neurons of a set that is too large; else, if every set is too
    # small, that of the lowest share.
    if fitting:
        nearest = min(fitting, key=lambda p: (abs(p - share), -p))  # of two equally near ones, the higher share
        return Neurons(mask=masks[nearest], share=nearest)
    if not too_large:
        return shared_neurons(scores, threshold=threshold, share=min(masks))
    highest = max(too_large)  # of which the set is the smallest one that is too large
    return Neurons(mask=_keep_strongest(masks[highest], scores.mean(0), most), share=highest)


def _choose_by_share(counted: Tensor, share: float) -> dict[float, Tensor]:
    """Return the neurons of every share p from 0 to 1 that is whole steps of 0.05 away from ``share``, by p.

    ``counted`` is the share of prompts in which each neuron is large, [layers, d_ff], like each mask. The 1e-6 is for
    rounding.
    """
    most_steps = round(1 / _STEP)
    masks = dict[float, Tensor]()
    for step in range(-most_steps, most_steps + 1):
        p = share + step * _STEP
        if 0 < p <= 1 + 1e-6:
            masks[p] = (counted >= p - 1e-6) & (counted > 0)
    return masks


def _keep_strongest(mask: Tensor, scores: Tensor, count: int) -> Tensor:
    """Return the mask of the ``count`` neurons of ``mask`` with the largest scores; both are [layers, d_ff]."""
    strongest = scores.masked_fill(~mask, -torch.inf).flatten().topk(count).indices  # in [layers * d_ff]
    kept = torch.zeros_like(mask).flatten()
    kept[strongest] = True
    return kept.reshape(mask.shape)


def _count_prompts(scores: Tensor, threshold: float) -> Tensor:
    """Return the share of prompts in which each neuron is above the threshold, [layers, d_ff]."""
    largest = scores.flatten(1).amax(1)[:, None, None]  # [prompts, 1, 1]
    return ((scores > threshold * largest) & (scores > 0)).float().mean(0)

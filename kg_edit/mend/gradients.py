"""A fine-tuning gradient as its rank-one factors: sum over tokens of delta u^T, for a linear module y = W u."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kg_edit.errors import ModelError
from kg_edit.methods.mend.gradients import EditedPasses
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt


def gradient_factors(
    model: LanguageModel, prompt: Prompt, names: Sequence[str]
) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
    """By the weights' names u [tokens, in] and delta [tokens, out], and the loss, the target's mean -log p.

    In float32, on the modules' devices; delta^T u is the loss's gradient by the weight [out, in].

    Raises:
        ModelError: the loss, or a factor, is not finite.
    """
    passes = EditedPasses(model, [prompt], names)
    loss = nll(passes, [0])
    found = edit_factors(passes, loss, rows=1)
    factors = {name: (inputs[0], deltas[0]) for name, (inputs, deltas) in found.items()}
    if not all(torch.isfinite(part).all() for pair in factors.values() for part in pair):
        raise ModelError(
            f"the gradient of {prompt.text!r} is not finite (loss {float(loss.detach())}); is the model sound? "
            "In float16 try bfloat16 or float32"
        )
    return factors, float(loss.detach())


def felt_factors(
    model: LanguageModel, prompts: Iterable[Prompt], names: Sequence[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """u [tokens, in] and delta [tokens, out] by name, of all tokens of ``prompts`` that their losses feel.

    Raises:
        ModelError: as `gradient_factors`.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}
    for prompt in prompts:
        factors, _ = gradient_factors(model, prompt, names)
        for name, (inputs, deltas) in factors.items():
            found[name].append((inputs[felt(deltas)], deltas[felt(deltas)]))
    return {name: (torch.cat([u for u, _ in pairs]), torch.cat([d for _, d in pairs])) for name, pairs in found.items()}


def felt(deltas: Tensor) -> Tensor:
    """Which tokens [...] have a gradient in [..., out] at all: in the last block not those before the target."""
    return (deltas != 0).any(-1)


def nll(passes: EditedPasses, rows: Sequence[int], logits: Tensor | None = None) -> Tensor:
    """The mean over ``rows`` of the mean over a row's target tokens of -log p; of the model as it is by default."""
    tokens, shares = passes.targets(rows)
    losses = cross_entropy(passes.logits(rows) if logits is None else logits, tokens, reduction="none")
    return (losses * shares).sum()


def edit_factors(passes: EditedPasses, loss: Tensor, *, rows: int) -> dict[str, tuple[Tensor, Tensor]]:
    """u [rows, length, in] and delta [rows, length, out] of the first ``rows`` rows, for the sum of their losses."""
    deltas = passes.deltas(loss * rows)
    return {name: (passes.inputs[name][:rows].float(), delta[:rows]) for name, delta in deltas.items()}

"""The descent that all methods of this family share: minimise the objective over whatever makes the change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from kg_edit.language_model import LanguageModel
from kg_edit.objective import Losses, Objective


@dataclass(frozen=True, eq=False, kw_only=True)
class Descent:
    """What a descent found: ``change`` [edits, d], and the losses at every step."""

    change: Tensor
    losses: tuple[Losses, ...]

    @property
    def summary(self) -> dict[str, float | int]:
        """Steps, and the loss before and after, for the first edit."""
        first, last = self.losses[0], self.losses[-1]
        return {
            "steps": len(self.losses),
            "loss_before": round(float(first.total[0]), 6),
            "loss_after": round(float(last.total[0]), 6),
            "nll_before": round(float(first.nll[0]), 6),
            "nll_after": round(float(last.nll[0]), 6),
            "kl_after": round(float(last.kl[0]), 6),
        }


def descend(
    objective: Objective,
    change: Callable[[], Tensor],
    optimizer: Optimizer,
    *,
    steps: int,
    stop_below: float,
    after_step: Callable[[], None] = lambda: None,
) -> Descent:
    """At most ``steps`` evaluations of the objective, with an update between two; ends once every loss is small.

    As in the published code the last evaluation makes no update: the change returned is one whose loss was seen.
    """
    losses: list[Losses] = []
    for step in range(steps):
        current = change()
        losses.append(objective(current))
        total = losses[-1].total
        if float(total.detach().max()) < stop_below or step == steps - 1:
            break
        optimizer.zero_grad()
        total.sum().backward()
        optimizer.step()
        after_step()
    return Descent(change=current.detach(), losses=tuple(_detached(one) for one in losses))


def _detached(losses: Losses) -> Losses:
    return Losses(
        nll=losses.nll.detach(),
        kl=losses.kl.detach(),
        penalty=losses.penalty.detach(),
        total=losses.total.detach(),
    )


@contextmanager
def untouched(model: LanguageModel) -> Iterator[None]:
    """For the length of the block the model is frozen and in evaluation mode; then flags, modes, RNG are as before."""
    modes = {module: module.training for module in model.model.modules()}
    flags = {parameter: parameter.requires_grad for parameter in model.model.parameters()}
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        try:
            model.model.eval().requires_grad_(False)
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            for parameter, flag in flags.items():
                parameter.requires_grad_(flag)

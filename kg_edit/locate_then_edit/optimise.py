"""The gradient descent for the values: it minimises `Objective` over the parameters of each edit's change m* - m.

ROME's parameters are the change itself (`FreeDelta`), GLAME's are those of a relational GNN that outputs the change.
Both are `DeltaParameters`. The descent may run on a copy of the model in bfloat16 (`descent_model`). The model itself
does not change (`untouched`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kg_edit.callbacks import report_losses
from kg_edit.errors import PatchError
from kg_edit.locate_then_edit.objective import Losses, Objective
from kg_edit.models.language_model import LanguageModel

_Evaluated = tuple[Tensor, tuple[float, float, float]]  # a change [d], and its losses (total, nll, kl)
_WORSE = 0.1  # in nats: a change without noise may be so much worse than the best one with it
_MARGIN = 0.5  # in logits; the written weight reproduces the descent's logits only approximately


class DeltaParameters(Protocol):
    """The parameters of one edit's change m* - m, with their optimiser."""

    def change(self) -> Tensor:
        """The current change m* - m, [d]; differentiable in the parameters."""

    def learn(self) -> None:
        """Take one step of the optimiser; the parameters already have their gradients."""


@runtime_checkable
class NoisyParameters(DeltaParameters, Protocol):
    """Parameters whose change may have noise while they are trained, such as dropout."""

    def settled(self) -> Tensor | None:
        """The change without the noise, [d], detached; None if there is no noise."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Descent:
    """The result of a descent for one edit: its ``change`` [d], and the losses (total, nll, kl) of every step."""

    change: Tensor
    losses: tuple[tuple[float, float, float], ...]

    def check_finite(self) -> None:
        """Check that the change and its last loss are finite.

        Raises:
            PatchError: one of them is infinite or not a number.
        """
        losses = all(math.isfinite(loss) for loss, _, _ in self.losses[-1:])
        if not (losses and torch.isfinite(self.change).all()):
            raise PatchError("the loss or the value found is not finite; lower the learning rate, or use float32")

    @property
    def summary(self) -> dict[str, float | int]:
        """The summary for the patch's record: the number of steps, and the losses of the first and the last step."""
        if not self.losses:
            return {"steps": 0}
        (total, nll, _), (last_total, last_nll, last_kl) = self.losses[0], self.losses[-1]
        return {
            "steps": len(self.losses),
            "loss_before": round(total, 6),
            "loss_after": round(last_total, 6),
            "nll_before": round(nll, 6),
            "nll_after": round(last_nll, 6),
            "kl_after": round(last_kl, 6),
        }


def optimise_values(
    objective: Objective,
    proposals: Sequence[DeltaParameters],
    *,
    steps: int,
    stop_below: float,
    stop_nll: float = 0.0,
    further_steps: int = 0,
) -> list[Descent]:
    """Minimise the loss of all edits of ``objective`` at once; return one `Descent` per edit.

    ``proposals`` has the parameters of each edit's change. The objective is evaluated at most ``steps`` times, with an
    update of the parameters between two evaluations. An edit stops if its loss is below ``stop_below`` or NaN, or its
    target's own loss (L_p) below ``stop_nll``. As in the published code, no update follows the last evaluation, so the
    loss of the returned change is known.

    After ``steps`` evaluations, an edit continues if its target is not the greedy continuation in each context. It
    stops when it is, by a margin, or after ``further_steps`` more evaluations. Edits that already succeed after
    ``steps`` evaluations get the same change as with ``further_steps=0``.

    An edit whose change has noise (`NoisyParameters`) has one more evaluation at the end, without it (`_Settling`).
    """
    running, settling = dict(enumerate(proposals)), _Settling(proposals, enough=stop_below)
    changes = [proposal.change() for proposal in proposals]
    seen: list[list[tuple[float, float, float]]] = [[] for _ in proposals]
    for step in range(steps + further_steps):
        now = torch.stack([change.detach() for change in changes])
        losses, gradient = objective.gradient(now)
        for edit in running:
            seen[edit].append(_numbers(losses, edit))
            settling.note(edit, now[edit], seen[edit][-1])
        _report(step, {edit: seen[edit][-1] for edit in running}, of=len(proposals))
        done = {edit for edit in running if _enough(seen[edit][-1], stop_below=stop_below, stop_nll=stop_nll)}
        if further_steps and step >= steps - 1:
            done |= _said(objective, now, margin=_MARGIN if step >= steps else 0.0)
        ended = running.keys() if step == steps + further_steps - 1 else running.keys() & done
        for edit, (change, numbers) in settling.settle(objective, now, ended).items():
            changes[edit] = change
            seen[edit].append(numbers)
        running = {edit: proposal for edit, proposal in running.items() if edit not in ended}
        if not running:
            break
        objective.drop(range(len(changes)) - running.keys())
        for edit, proposal in running.items():
            changes[edit].backward(gradient[edit])
            proposal.learn()
            changes[edit] = proposal.change()
    return [Descent(change=change.detach(), losses=tuple(own)) for change, own in zip(changes, seen, strict=True)]


class _Settling:
    """The last evaluation of edits whose change has noise.

    As in GLAME's public program, the change is then the one without noise. If the loss of that is more than ``_WORSE``
    above the lowest loss that was seen, and not below ``enough``, it is the change of that lowest loss.
    """

    def __init__(self, proposals: Sequence[DeltaParameters], *, enough: float) -> None:
        self._noisy = {edit: one for edit, one in enumerate(proposals) if isinstance(one, NoisyParameters)}
        self._enough = enough
        self._best: dict[int, _Evaluated] = {}

    def note(self, edit: int, change: Tensor, numbers: tuple[float, float, float]) -> None:
        """Keep the change with the lowest loss."""
        if edit in self._noisy and (edit not in self._best or numbers[0] < self._best[edit][1][0]):
            self._best[edit] = change.clone(), numbers

    @torch.no_grad()
    def settle(self, objective: Objective, changes: Tensor, ended: Collection[int]) -> dict[int, _Evaluated]:
        """The final change of each edit in ``ended`` that has noise, and its losses; ``changes`` [edits, d]."""
        settled = {edit: self._noisy[edit].settled() for edit in self._noisy.keys() & ended}
        final = {edit: change for edit, change in settled.items() if change is not None}
        if not final:
            return {}
        losses = objective(torch.stack([final.get(edit, change) for edit, change in enumerate(changes)]))
        found = {edit: (change, _numbers(losses, edit)) for edit, change in final.items()}
        return {edit: self._best[edit] if self._is_worse(edit, own[1][0]) else own for edit, own in found.items()}

    def _is_worse(self, edit: int, loss: float) -> bool:
        return not loss < self._enough and not loss <= self._best[edit][1][0] + _WORSE


def _enough(losses: tuple[float, float, float], *, stop_below: float, stop_nll: float) -> bool:
    total, nll, _ = losses
    return not total >= stop_below or nll < stop_nll  # true for NaN too


def _said(objective: Objective, changes: Tensor, *, margin: float) -> set[int]:
    """The edits whose target is the greedy continuation in each context, by at least ``margin``."""
    return {edit for edit, said in enumerate(objective.greedy(changes, margin=margin).tolist()) if said}


def _report(step: int, seen: Mapping[int, tuple[float, float, float]], *, of: int) -> None:
    terms = {edit: {"nll": nll, "kl": kl} for edit, (_, nll, kl) in seen.items()}
    report_losses(step, {edit: total for edit, (total, _, _) in seen.items()}, of=of, terms=terms)


def _numbers(losses: Losses, edit: int) -> tuple[float, float, float]:
    return float(losses.total[edit]), float(losses.nll[edit]), float(losses.kl[edit])


@contextmanager
def untouched(model: LanguageModel) -> Iterator[None]:
    """Freeze the model and set it to evaluation mode within a ``with`` block.

    Afterwards the modes, the ``requires_grad`` flags and the random state are as before.
    """
    modes = {module: module.training for module in model.model.modules()}
    flags = {parameter: parameter.requires_grad for parameter in model.model.parameters()}
    with torch.random.fork_rng(devices=model.cuda_devices), torch.enable_grad():
        try:
            model.model.eval().requires_grad_(False)
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            for parameter, flag in flags.items():
                parameter.requires_grad_(flag)


DescentDtype = Literal["model", "bfloat16"]
DESCENT_DTYPE = "bfloat16: descend on a copy in bfloat16, twice as fast on processors that have it"
# Settings of the presets "default" and "fast". The class default of further_steps is 0, because patches saved before
# this setting existed were made without further steps.
DEFAULT: dict[str, Any] = {"further_steps": 28}
FAST: dict[str, Any] = {"descent_dtype": "bfloat16", **DEFAULT}


def descent_model(model: LanguageModel, dtype: DescentDtype) -> LanguageModel:
    """The model to run the descent on: ``model`` itself, or a frozen copy in ``dtype`` with its applied patches."""
    if dtype == "model" or model.model.dtype == torch.bfloat16:
        return model
    rough = deepcopy(model.model, dict(_cast(model.model)))
    return replace(model, model=rough.eval().requires_grad_(False))


def _cast(module: nn.Module) -> Iterator[tuple[int, Tensor]]:
    """The weights and buffers in bfloat16 by the ids of the originals, so that `deepcopy` copies none in full size."""
    for weight in module.parameters():
        yield id(weight), nn.Parameter(_rough(weight), requires_grad=False)
    for buffer in module.buffers():
        yield id(buffer), _rough(buffer)


def _rough(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.bfloat16 if tensor.is_floating_point() else tensor.dtype, copy=True)

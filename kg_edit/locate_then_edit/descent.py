"""The gradient descent for the values: it minimises `Objective` over the parameters of each edit's change m* - m.

ROME's parameters are the change itself (`FreeDelta`), GLAME's are those of a relational GNN that outputs the change.
Both are `DeltaParameters`. `optimise_values` trains the parameters of many edits at once, as one if they can be stacked
(`Stackable`). The descent may run on a copy of the model in bfloat16 (`descent_model`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from kg_edit.callbacks import report_losses
from kg_edit.errors import PatchError
from kg_edit.locate_then_edit.objective import Objective
from kg_edit.models.hooks import is_hooked
from kg_edit.models.language_model import LanguageModel

Optimiser = Literal["adam", "momentum"]
OPTIMISER = "how the change is trained: adam (published), or momentum, whose learning_rate is a share of the norm limit"
DescentDtype = Literal["model", "bfloat16"]

# The preset "fast" of single edits; chosen on the first 24 records of CounterFactPlus.
MOMENTUM: dict[str, Any] = {"optimiser": "momentum", "learning_rate": 0.15, "stop_nll": 0.1}
_MOMENTUM = 0.7  # share of the last step's direction that a step keeps

_MARGIN = 0.5  # in logits; the written weight reproduces the descent's logits only approximately
_WORSE = 0.1  # in nats: a change without noise may be so much worse than the best one with it

_Losses = tuple[float, float, float]  # total, nll, kl


class DeltaParameters(Protocol):
    """The parameters of one edit's change m* - m, with their optimiser."""

    def change(self) -> Tensor:
        """Return the current change m* - m, [d]; differentiable in the parameters."""

    def learn(self) -> None:
        """Take one step of the optimiser; the parameters already have their gradients."""


@runtime_checkable
class Stackable(DeltaParameters, Protocol):
    """Parameters that many edits can have as one: a step then has as many operators as for one edit."""

    @classmethod
    def together(cls, parameters: Sequence[Self]) -> Self:
        """Return the parameters of many edits as one, from where they are now, with a `change` [edits, d]."""


@runtime_checkable
class NoisyParameters(DeltaParameters, Protocol):
    """Parameters whose change may have noise while they are trained, such as dropout."""

    @property
    def keeps_lowest(self) -> bool:
        """Whether the change of the lowest loss is the result, if the loss at the end is much above it."""

    def settled(self) -> Tensor | None:
        """Return the change without the noise, [d], detached; None if there is no noise."""


class DeltaSettings(Protocol):
    """The settings that `FreeDelta` reads."""

    @property
    def optimiser(self) -> Optimiser:
        """The optimiser's name."""

    @property
    def learning_rate(self) -> float:
        """Adam's learning rate, or the share of the limit that a step of ``momentum`` moves; above 0."""

    @property
    def clamp_norm_factor(self) -> float:
        """The largest |m* - m|, as a multiple of |m|; infinite without a limit."""


@dataclass(frozen=True, kw_only=True)
class DeltaOptions:
    """`DeltaSettings` for a change without a method's config: Adam, without a limit."""

    learning_rate: float
    optimiser: Optimiser = "adam"
    clamp_norm_factor: float = math.inf


class FreeDelta:
    """The change delta = m* - m as a free parameter, as in ROME and MEMIT; |delta| <= r = clamp_norm_factor |m|.

    With g the gradient of the loss:

    - ``adam``: Adam, as published.
    - ``momentum``: u <- 0.7 u + g / |g|, delta <- delta - learning_rate r u. The gradient of a loss that starts near 8
      nats is informative by its direction, not by its length, and the minimum usually lies at the limit. Steps that are
      a share of the limit reach it in about half of Adam's evaluations. For edits that share a model Adam is better:
      hundreds of changes found by ``momentum`` cost more of the model's other text (docs/speed.md).

    After each step delta is rescaled if its norm exceeds r.

    Args:
        value: m, [d], or [edits, d] of many edits, each with its own limit.
        config: the optimiser's settings.
        start: delta at the beginning, shaped like ``value``; None: 0.
    """

    def __init__(self, value: Tensor, config: DeltaSettings, *, start: Tensor | None = None) -> None:
        self._value, self._config = value, config
        self._delta = (torch.zeros_like(value) if start is None else start.detach().clone()).requires_grad_()
        self._limit = config.clamp_norm_factor * value.norm(dim=-1, keepdim=True)
        self._optimizer: torch.optim.Optimizer
        if config.optimiser == "adam":
            self._optimizer = torch.optim.Adam([self._delta], lr=config.learning_rate)
        else:
            self._optimizer = torch.optim.SGD([self._delta], lr=1.0, momentum=_MOMENTUM)

    @classmethod
    def together(cls, deltas: Sequence[FreeDelta]) -> FreeDelta:
        """Return the changes of many edits as one parameter [edits, d], from where they are now."""
        value, start = (torch.stack(each) for each in zip(*((d._value, d._delta) for d in deltas), strict=True))
        return cls(value, deltas[0]._config, start=start)

    def change(self) -> Tensor:
        """Return the current change m* - m, shaped like the value; a leaf tensor."""
        return self._delta

    @torch.no_grad()
    def learn(self) -> None:
        """Take a step of the optimiser, then rescale each change whose norm exceeds its limit."""
        gradient = self._delta.grad
        if self._config.optimiser == "momentum" and gradient is not None:
            length = self._config.learning_rate * self._limit
            gradient.mul_(length / gradient.norm(dim=-1, keepdim=True).clamp(min=1e-12))
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self._config.clamp_norm_factor < math.inf:
            norm = self._delta.norm(dim=-1, keepdim=True).clamp(min=1e-12)
            self._delta.mul_((self._limit / norm).clamp(max=1.0))


class _Changes(Protocol):
    """The changes of all edits of a descent."""

    def now(self) -> Tensor:
        """Return the changes [edits, d], detached."""

    def learn(self, gradient: Tensor, running: Iterable[int]) -> None:
        """Take a step of the edits that are ``running``, with d loss_i / d delta_i in ``gradient`` [edits, d]."""


class _Together:
    """Changes whose parameters are one: one step of the optimiser for all, also for edits that have ended."""

    def __init__(self, parameters: Sequence[Stackable]) -> None:
        self._all = type(parameters[0]).together(parameters)
        self._change = self._all.change()  # differentiable, [edits, d]

    def now(self) -> Tensor:
        return self._change.detach().clone()

    def learn(self, gradient: Tensor, running: Iterable[int]) -> None:
        if self._change.is_leaf:  # the changes are the parameters
            self._change.grad = gradient
        else:  # chain rule
            self._change.backward(gradient)
        self._all.learn()
        self._change = self._all.change()


class _OneByOne:
    """Changes that can't be stacked, or are of several kinds; the reference for those that can."""

    def __init__(self, parameters: Sequence[DeltaParameters]) -> None:
        self._parameters, self._changes = parameters, [delta.change() for delta in parameters]  # differentiable, [d]

    def now(self) -> Tensor:
        return torch.stack([change.detach() for change in self._changes])

    def learn(self, gradient: Tensor, running: Iterable[int]) -> None:
        for edit in running:
            self._changes[edit].backward(gradient[edit])  # chain rule: from delta to its parameters
            self._parameters[edit].learn()
            self._changes[edit] = self._parameters[edit].change()


class StopSettings(Protocol):
    """The settings that `optimise_values` reads: when the descent of an edit ends."""

    @property
    def steps(self) -> int:
        """The largest number of evaluations of the loss."""

    @property
    def further_steps(self) -> int:
        """The largest number of evaluations after these, until the target is predicted in each context."""

    @property
    def stop_below(self) -> float:
        """An edit ends when its loss is below this."""

    @property
    def stop_nll(self) -> float:
        """An edit ends when L_p alone is below this."""


@dataclass(frozen=True, kw_only=True)
class Stops:
    """`StopSettings` for a descent without a method's config."""

    steps: int
    further_steps: int = 0
    stop_below: float = 0.0
    stop_nll: float = 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Descent:
    """The result of a descent for one edit.

    Attributes:
        change: m* - m, [d].
        losses: (total, nll, kl) of every evaluation; the last ones are those of ``change``.
        refused: why the change must not be written; empty if it may.
    """

    change: Tensor
    losses: tuple[_Losses, ...]
    refused: str = ""

    def check(self) -> None:
        """Check that the change may be written: it is finite, as is its last loss, and was not refused.

        Raises:
            PatchError: it may not be written.
        """
        if self.refused:
            raise PatchError(f"the edit was refused: {self.refused}; leave it out, or make anchor larger")
        losses = all(math.isfinite(loss) for loss, _, _ in self.losses[-1:])
        if not (losses and torch.isfinite(self.change).all()):
            raise PatchError("the loss or the value is not finite; lower the learning rate, or use float32")

    @property
    def summary(self) -> dict[str, float | int]:
        """The number of steps, and the losses of the first and the last step, for the patch's record."""
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
    objective: Objective, parameters: Sequence[DeltaParameters], settings: StopSettings
) -> list[Descent]:
    """Minimise the loss of all edits of ``objective`` at once.

    The objective is evaluated at most ``steps`` times, with an update of the parameters between two evaluations. As in
    the published code, no update follows the last evaluation, so the loss of the returned change is known. An edit ends
    early if its loss is below ``stop_below`` or NaN, or L_p is below ``stop_nll``.

    After ``steps`` evaluations, an edit continues if its target is not the greedy continuation in each context, until
    it is, by a margin, or for ``further_steps`` more evaluations. An edit that succeeds after ``steps`` evaluations
    gets the same change as with ``further_steps`` = 0.

    Args:
        objective: the loss.
        parameters: the parameters of each edit's change.
        settings: when an edit ends.

    Returns:
        One `Descent` per edit, in order.
    """
    alike = [delta for delta in parameters if isinstance(delta, Stackable) and type(delta) is type(parameters[0])]
    changes: _Changes = _Together(alike) if len(alike) == len(parameters) else _OneByOne(parameters)
    losses: list[list[_Losses]] = [[] for _ in parameters]
    noisy = {
        e: delta for e, delta in enumerate(parameters) if isinstance(delta, NoisyParameters) and delta.keeps_lowest
    }
    best = dict[int, tuple[Tensor, _Losses]]()  # of the noisy ones: the changes [edits, d] at the edit's lowest loss
    running, results = set(range(len(parameters))), dict[int, Tensor]()
    last = settings.steps + settings.further_steps - 1

    for step in range(last + 1):
        # One pass over all prompts of all edits: the losses, and d loss_i / d delta_i.
        now = changes.now()  # [edits, d]
        if results:  # the optimiser also moves changes that have ended, and EAMET's penalty needs them as written
            now[[*results]] = torch.stack([*results.values()])
        # After ``steps`` evaluations, also whether the targets are predicted, by a margin from the next one on.
        checked = settings.further_steps and step >= settings.steps - 1
        margin = (_MARGIN if step >= settings.steps else 0.0) if checked else None
        step_losses, gradient = objective.gradient(now, margin=margin)
        nll, kl, _, _, total, *missed = step_losses.numbers()  # the one wait for the device
        numbers = list(zip(total, nll, kl, strict=True))
        for edit in sorted(running):
            losses[edit].append(numbers[edit])
            if edit in noisy and (edit not in best or numbers[edit][0] < best[edit][1][0]):
                best[edit] = now, numbers[edit]
        report_losses(
            step,
            {edit: numbers[edit][0] for edit in sorted(running)},
            of=len(parameters),
            terms={edit: {"nll": numbers[edit][1], "kl": numbers[edit][2]} for edit in running},
        )

        # Which edits end here? `not >=` is true for NaN too.
        stopped = {edit for edit in running if not numbers[edit][0] >= settings.stop_below}
        stopped |= {edit for edit in running if numbers[edit][1] < settings.stop_nll}
        stopped |= {edit for edit in running if missed and not missed[0][edit]}
        ended = running if step == last else stopped
        results |= {edit: now[edit] for edit in ended}

        # A change with noise is replaced by the one without, as in GLAME's public program: one more evaluation for the
        # edits that end.
        settled = {edit: change for edit in ended & noisy.keys() if (change := noisy[edit].settled()) is not None}
        if settled:
            with torch.no_grad():
                step_losses = objective(torch.stack([settled.get(edit, change) for edit, change in enumerate(now)]))
                nll, kl, _, _, total = step_losses.numbers()
                quiet = list(zip(total, nll, kl, strict=True))
            results |= settled
            for edit in settled:
                losses[edit].append(quiet[edit])
        # An end that is much worse than the best change seen is replaced by that one.
        for edit in ended & noisy.keys():
            reached, (changes_at_best, lowest) = losses[edit][-1][0], best[edit]
            if not (reached < settings.stop_below or reached <= lowest[0] + _WORSE):
                results[edit] = changes_at_best[edit]
                losses[edit].append(lowest)

        running = running - ended
        if not running:
            break
        objective.drop(results.keys())
        changes.learn(gradient, sorted(running))
    return [Descent(change=results[edit], losses=tuple(edit_losses)) for edit, edit_losses in enumerate(losses)]


def descent_model(model: LanguageModel, dtype: DescentDtype) -> LanguageModel:
    """Return the model to run the descent on: ``model`` itself, or a frozen copy in ``dtype``.

    A model with hooks is not copied: those of a patch (GRACE, MELO, …) read the prompts' ends or sums of the model that
    it is applied to, and would see nothing of a copy.
    """
    if dtype == "model" or model.model.dtype == torch.bfloat16 or is_hooked(model.model):
        return model
    rough = deepcopy(model.model, dict(_cast(model.model)))
    return replace(model, model=rough.eval().requires_grad_(False))


def _cast(module: nn.Module) -> Iterator[tuple[int, Tensor]]:
    """The weights and buffers in bfloat16 by the ids of the originals, so that `deepcopy` copies none in full size."""

    def rough(tensor: Tensor) -> Tensor:
        return tensor.detach().to(torch.bfloat16 if tensor.is_floating_point() else tensor.dtype, copy=True)

    for weight in module.parameters():
        yield id(weight), nn.Parameter(rough(weight), requires_grad=False)
    for buffer in module.buffers():
        yield id(buffer), rough(buffer)

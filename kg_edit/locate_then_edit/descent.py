"""The gradient descent for the values: it minimises `Objective` over the parameters of each edit's change m* - m.

ROME's parameters are the change itself (`FreeDelta`), GLAME's are those of a relational GNN that outputs the change.
Both are a `Delta`: the changes of all edits of a descent, with their optimiser. `descend` is the loop. It may run on a
copy of the model in bfloat16 (`descent_model`), on processors that compute in it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from kg_edit.callbacks import report_losses
from kg_edit.errors import PatchError
from kg_edit.locate_then_edit.objective import Objective
from kg_edit.models.devices import computes_in_bfloat16
from kg_edit.models.hooks import is_hooked
from kg_edit.models.language_model import LanguageModel

Optimiser = Literal["adam", "momentum"]
OPTIMISER_DESCRIPTION = (
    "how the change is trained: adam (published), or momentum, whose learning_rate is a share of the norm limit"
)
DescentDtype = Literal["model", "bfloat16"]

# Part of the preset "fast" of single edits; chosen on the first 24 records of CounterFactPlus.
MOMENTUM_PRESET: dict[str, Any] = {"optimiser": "momentum", "learning_rate": 0.15, "stop_nll": 0.1}
_KEPT_DIRECTION = 0.7  # share of the last step's direction that a step of ``momentum`` keeps

_MARGIN = 0.5  # in logits; the written weight reproduces the descent's logits only approximately
_WORSE = 0.1  # in nats; how much worse the final change without noise may be than the best one with noise


class StepLosses(NamedTuple):
    """The losses of one edit in one evaluation: the whole loss, L_p, and L_a without its weight."""

    total: float
    nll: float
    kl: float


class Delta(ABC):
    """The changes m* - m of all edits of a descent, [edits, d], as functions of what an optimiser trains.

    Attributes:
        keeps_lowest: whether an edit ends with the change of its lowest loss, if its last loss is much above that; for
            changes that have noise while they are trained.
    """

    keeps_lowest: bool = False

    @abstractmethod
    def change(self) -> Tensor:
        """Return the current changes [edits, d]; differentiable in the parameters."""

    @abstractmethod
    def learn(self) -> None:
        """Take one step of the optimiser; the parameters already have their gradients."""

    def settle(self) -> Tensor | None:
        """Return the changes without noise such as dropout, [edits, d], detached; None if there is no noise.

        `descend` calls this when an edit ends, and only if ``keeps_lowest``.
        """
        return None

    def describe(self, edits: Sequence[int]) -> list[dict[str, Any]]:
        """Return what the patch's record says of the present changes of ``edits`` (indices); here nothing."""
        return [{} for _ in edits]


class FreeDelta(Delta):
    """The changes delta = m* - m as free parameters, as in ROME and MEMIT; |delta| <= r = clamp_norm_factor |m|.

    With g the gradient of the loss:

    - ``adam``: Adam, as published.
    - ``momentum``: u <- 0.7 u + g / |g|, delta <- delta - learning_rate r u. The gradient of a loss that starts near 8
      nats is informative by its direction, not by its length, and the minimum usually lies at the limit. Steps that are
      a share of the limit reach it in about half of Adam's evaluations. For edits that share a model Adam is better:
      hundreds of changes found by ``momentum`` cost more of the model's other text (docs/speed.md).

    After each step delta is rescaled if its norm exceeds r.

    Args:
        value: m, [edits, d]; each edit has its own limit.
        learning_rate: Adam's, or the share of the limit that a step of ``momentum`` moves.
        optimiser: the optimiser's name.
        clamp_norm_factor: the largest |delta|, as a multiple of |m|; infinite without a limit, but ``momentum`` needs
            one, as its steps are shares of it.
        start: delta at the beginning, shaped like ``value``; None: 0.
    """

    def __init__(
        self,
        value: Tensor,
        *,
        learning_rate: float,
        optimiser: Optimiser = "adam",
        clamp_norm_factor: float = math.inf,
        start: Tensor | None = None,
    ) -> None:
        if start is None:
            start = torch.zeros_like(value)
        self._delta = start.detach().clone().requires_grad_()
        self._limit = clamp_norm_factor * value.norm(dim=-1, keepdim=True)  # r
        self._clamps = clamp_norm_factor < math.inf
        self._learning_rate = learning_rate
        self._by_momentum = optimiser == "momentum"
        self._optimizer: torch.optim.Optimizer
        if self._by_momentum:
            self._optimizer = torch.optim.SGD([self._delta], lr=1.0, momentum=_KEPT_DIRECTION)
        else:
            self._optimizer = torch.optim.Adam([self._delta], lr=learning_rate)

    def change(self) -> Tensor:
        """Return the current changes m* - m, shaped like the values; a leaf tensor."""
        return self._delta

    @torch.no_grad()
    def learn(self) -> None:
        """Take a step of the optimiser, then rescale each change whose norm exceeds its limit."""
        gradient = self._delta.grad
        if self._by_momentum and gradient is not None:
            # g becomes learning_rate r g / |g|, the whole step but for the momentum, so the rate of SGD itself is 1.
            length = self._learning_rate * self._limit
            gradient.mul_(length / gradient.norm(dim=-1, keepdim=True).clamp(min=1e-12))
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self._clamps:
            norm = self._delta.norm(dim=-1, keepdim=True).clamp(min=1e-12)
            self._delta.mul_((self._limit / norm).clamp(max=1.0))


@dataclass(frozen=True, kw_only=True)
class Stops:
    """When the descent of an edit ends.

    Attributes:
        steps: the largest number of evaluations of the loss.
        further_steps: the largest number of evaluations after these, until the target is predicted in each context.
        stop_below: an edit ends when its loss is below this, or NaN.
        stop_nll: an edit ends when L_p alone is below this.
    """

    steps: int
    further_steps: int = 0
    stop_below: float = 0.0
    stop_nll: float = 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Descent:
    """The result of a descent for one edit.

    Attributes:
        change: m* - m, [d].
        losses: those of every evaluation; the last ones are those of ``change``. If the change of an earlier evaluation
            was restored (`Delta.keeps_lowest`), the losses of that evaluation are here once more, at the end.
        refused: why the change must not be written, and what to do about it; empty if it may be written.
        notes: what `Delta.describe` says of the change; empty if that of an earlier evaluation was restored.
    """

    change: Tensor
    losses: tuple[StepLosses, ...]
    refused: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Check that the change may be written: it is finite, as is its last loss, and was not refused."""
        if self.refused:
            raise PatchError(f"the edit was refused: {self.refused}")
        last_total = self.losses[-1].total if self.losses else 0.0
        if not math.isfinite(last_total) or not torch.isfinite(self.change).all():
            raise PatchError("the loss or the value is not finite; lower the learning rate, or use float32")

    @property
    def summary(self) -> dict[str, Any]:
        """The number of ``losses`` as "steps", the first and the last of them, and the notes, for the record."""
        if not self.losses:
            return {"steps": 0, **self.notes}
        first = self.losses[0]
        last = self.losses[-1]
        return {
            "steps": len(self.losses),
            "loss_before": round(first.total, 6),
            "loss_after": round(last.total, 6),
            "nll_before": round(first.nll, 6),
            "nll_after": round(last.nll, 6),
            "kl_after": round(last.kl, 6),
            **self.notes,
        }


def descend(loss: Objective, delta: Delta, stops: Stops) -> list[Descent]:
    """Minimise the loss of all edits at once over the parameters of ``delta``.

    The loss is evaluated at most ``steps`` times, with an update of the parameters between two evaluations. As in the
    published code, no update follows the last evaluation, so the loss of the returned change is known.

    After ``steps`` evaluations, an edit continues if its target is not the greedy continuation in each context, until
    it is, by a margin, or for ``further_steps`` more evaluations. An edit that succeeds after ``steps`` evaluations
    gets the same change as with ``further_steps`` = 0.

    Args:
        loss: the loss of all edits.
        delta: their changes, and the optimiser.
        stops: when an edit ends.

    Returns:
        One `Descent` per edit, in order.
    """
    progress = _Progress(len(loss.value), keeps_lowest=delta.keeps_lowest)
    last = stops.steps + stops.further_steps - 1
    for step in range(last + 1):
        trained = delta.change()
        # In `trained` the edits that have ended still move. Their final changes take its place, because a penalty may
        # depend on the changes of all edits (EAMET's does), and has to see what will be written.
        changes = progress.put_final(trained)
        # The losses, and d loss_i / d delta_i, [edits, d]
        losses, gradient = loss.gradient(changes, margin=_margin_at(step, stops))
        numbers = losses.numbers()  # the one wait for the device
        progress.add(changes, numbers)
        _report(step, progress)

        ended = [edit for edit in progress.running if step == last or _is_done(edit, numbers, stops)]
        if ended:
            # They end with their present changes. With ``keeps_lowest``, these have noise, so two things follow: their
            # changes without noise take their place and are evaluated; and an edit whose loss is then much above its
            # lowest one gets the change of the lowest one back.
            _end_edits(ended, changes, loss, delta, progress)
            if delta.keeps_lowest:
                progress.restore_lowest(ended, stop_below=stops.stop_below)
        if not progress.running:
            break
        loss.drop(progress.final.keys())

        # Chain rule: from delta to its parameters; then a step, and the clamp.
        trained.backward(gradient)
        delta.learn()
    return progress.results()


class _Progress:
    """What a descent knows of each edit.

    Attributes:
        running: the edits that have not ended.
        history: the losses of each edit's evaluations so far (`Descent.losses`).
        lowest: if ``keeps_lowest``, each edit's change of its lowest loss, and that loss.
        final: the final changes [d] of the edits that have ended.
        notes: what `Delta.describe` says of these changes.
    """

    def __init__(self, edits: int, *, keeps_lowest: bool) -> None:
        self._keeps_lowest = keeps_lowest
        self.running = list(range(edits))
        self.history: list[list[StepLosses]] = [[] for _ in range(edits)]
        self.lowest: dict[int, tuple[Tensor, StepLosses]] = {}
        self.final: dict[int, Tensor] = {}
        self.notes: dict[int, dict[str, Any]] = {}

    def put_final(self, trained: Tensor) -> Tensor:
        """Return a copy of the changes [edits, d], with the final ones of the edits that have ended."""
        changes = trained.detach().clone()
        for edit, final in self.final.items():
            changes[edit] = final
        return changes

    def add(self, changes: Tensor, numbers: dict[str, list[float]]) -> None:
        """Add an evaluation: the losses of the running edits under ``changes`` [edits, d]."""
        for edit in self.running:
            losses = _losses_of(edit, numbers)
            self.history[edit].append(losses)
            if self._keeps_lowest and self._is_lowest(edit, losses):
                self.lowest[edit] = (changes[edit], losses)

    def _is_lowest(self, edit: int, losses: StepLosses) -> bool:
        """Return whether the loss of an edit is below all earlier ones; the first one is."""
        if edit not in self.lowest:
            return True
        _, lowest = self.lowest[edit]
        return losses.total < lowest.total

    def end(self, ended: list[int], changes: Tensor, notes: list[dict[str, Any]]) -> None:
        """Let the edits in ``ended`` end with their ``changes`` [edits, d], and a note of each of them."""
        for edit, edit_notes in zip(ended, notes, strict=True):
            self.final[edit] = changes[edit]
            self.notes[edit] = edit_notes
        self.running = [edit for edit in self.running if edit not in self.final]

    def change_final(self, ended: list[int], changes: Tensor, numbers: dict[str, list[float]]) -> None:
        """Give the edits in ``ended`` other final changes, whose losses were evaluated."""
        for edit in ended:
            self.final[edit] = changes[edit]
            self.history[edit].append(_losses_of(edit, numbers))

    def restore_lowest(self, ended: list[int], *, stop_below: float) -> None:
        """Give each edit in ``ended`` the change of its lowest loss, if its final change is much worse than that.

        Its notes are dropped, because they are about the final change.
        """
        for edit in ended:
            reached = self.history[edit][-1].total
            lowest_change, lowest = self.lowest[edit]
            is_good = reached < stop_below or reached <= lowest.total + _WORSE  # false for NaN
            if not is_good:
                self.final[edit] = lowest_change
                self.history[edit].append(lowest)
                self.notes[edit] = {}

    def results(self) -> list[Descent]:
        """Return the results, when all edits have ended."""
        results = []
        for edit, losses in enumerate(self.history):
            results.append(Descent(change=self.final[edit], losses=tuple(losses), notes=self.notes[edit]))
        return results


def _losses_of(edit: int, numbers: dict[str, list[float]]) -> StepLosses:
    """Return the losses of an edit as the history has them."""
    return StepLosses(total=numbers["total"][edit], nll=numbers["nll"][edit], kl=numbers["kl"][edit])


def _is_done(edit: int, numbers: dict[str, list[float]], stops: Stops) -> bool:
    """Return whether an edit ends by its losses, or because its target is predicted in each context."""
    if math.isnan(numbers["total"][edit]) or numbers["total"][edit] < stops.stop_below:
        return True
    if numbers["nll"][edit] < stops.stop_nll:
        return True
    return "missed" in numbers and not numbers["missed"][edit]


def _margin_at(step: int, stops: Stops) -> float | None:
    """Return the margin by which a target has to be predicted at a step; None before the end of ``steps``.

    At the last of ``steps`` it is 0: an edit that has succeeded by then needs no further step. An edit that has not
    goes on until its target leads by `_MARGIN`, so that the written weight predicts it, too.
    """
    if not stops.further_steps or step < stops.steps - 1:
        return None
    if step == stops.steps - 1:
        return 0.0
    return _MARGIN


def _report(step: int, progress: _Progress) -> None:
    """Tell the callbacks the losses of a step."""
    totals = dict[int, float]()
    terms = dict[int, dict[str, float]]()
    for edit in progress.running:
        losses = progress.history[edit][-1]
        totals[edit] = losses.total
        terms[edit] = {"nll": losses.nll, "kl": losses.kl}
    report_losses(step, totals, descents=len(progress.history), terms=terms)


def _end_edits(ended: list[int], changes: Tensor, loss: Objective, delta: Delta, progress: _Progress) -> None:
    """Let the edits in ``ended`` end with their ``changes`` [edits, d], or with those without noise.

    As in GLAME's public program, the changes without noise are evaluated once more; the edits that go on stay at
    ``changes``.
    """
    progress.end(ended, changes, delta.describe(ended))
    settled = delta.settle() if delta.keeps_lowest else None
    if settled is None:
        return
    without_noise = changes.clone()
    without_noise[ended] = settled[ended]
    with torch.no_grad():
        numbers = loss(without_noise).numbers()
    progress.change_final(ended, without_noise, numbers)


def descent_model(model: LanguageModel, dtype: DescentDtype) -> LanguageModel:
    """Return the model to run the descent on: ``model`` itself, or a frozen copy in ``dtype``.

    A model with hooks is not copied: the hooks of a patch (GRACE, MELO, …) read the ends or sums of the prompts of the
    model that the patch is applied to, and would see nothing of a copy. On a processor without products in bfloat16, a
    copy takes many times as long as ``model``.
    """
    if dtype == "model" or model.model.dtype == torch.bfloat16 or is_hooked(model.model) or model.is_quantised:
        return model
    if model.device.type == "cpu" and not computes_in_bfloat16():
        return model
    # `deepcopy` takes from its memo, by id, what is copied already: so it does not copy the weights in their own dtype.
    memo = dict(_cast(model.model))
    cast_copy = deepcopy(model.model, memo)
    return replace(model, model=cast_copy.eval().requires_grad_(False))


def _cast(module: nn.Module) -> Iterator[tuple[int, Tensor]]:
    """Yield the id of each weight and buffer, and its copy in bfloat16."""

    def cast_one(tensor: Tensor) -> Tensor:
        dtype = torch.bfloat16 if tensor.is_floating_point() else tensor.dtype
        return tensor.detach().to(dtype, copy=True)

    for weight in module.parameters():
        yield id(weight), nn.Parameter(cast_one(weight), requires_grad=False)
    for buffer in module.buffers():
        yield id(buffer), cast_one(buffer)

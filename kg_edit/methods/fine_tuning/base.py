"""The base of FT, FT-L, FT-M, EWC and LocFT: fine-tuning of one down-projection W [d, d_ff] by gradients.

The loss of an edit is the mean of -log P over the tokens that its row should predict (see `row_of`). Adam trains a
change of W that is never written into the model: it is added to the module's output while the model runs
(`WeightChange`). A step runs only the blocks from the tuned one on (`RowLosses`). The change [d, d_ff] becomes a dense
patch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import networkx as nx
import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from kg_edit.edits.edit import Edit
from kg_edit.errors import PatchError
from kg_edit.graphs.source import SubgraphSource
from kg_edit.methods.base import EditingMethod, annotate_errors
from kg_edit.methods.config import LayerConfig, MethodConfig
from kg_edit.methods.statement import encode_statement, warn_of_lead
from kg_edit.methods.workload import Workload
from kg_edit.models.hooks import beside
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import Prompt, left_pad
from kg_edit.models.replay import RecordedBlocks
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import Factors, WeightPatch
from kg_edit.value.callbacks import report_losses
from kg_edit.value.optimise import untouched

Aim = Literal["target", "text", "prompt_last"]


class TuningConfig(MethodConfig):
    """Settings of a gradient descent: the number of steps, the learning rate, and when to stop."""

    steps: PositiveInt = Field(
        25, description="maximum number of loss evaluations; an optimiser step follows each but the last"
    )
    learning_rate: float = Field(5e-4, gt=0, description="learning rate of Adam")
    stop_below: float = Field(1e-2, description="training stops when the loss is below this value")

    @property
    def descent(self) -> Descent:
        """Adam's descent with these settings."""
        return Descent(steps=self.steps, learning_rate=self.learning_rate, stop_below=self.stop_below)

    def workload(self, *, edits: int) -> Workload:
        """One descent on the edit's own row."""
        return Workload(steps=self.steps)


class FineTuningConfig(LayerConfig, TuningConfig):
    """Settings of fine-tuning one down-projection."""

    layer: int | None = Field(None, ge=0, description="tuned block, 0-based; default 0.2 of the depth")
    aim: Aim = Field(
        "target",
        description="trained tokens: of the target, of the whole text, or the target after the prompt's last token",
    )


class FineTuning(EditingMethod):
    """Trains the down-projection of one block by Adam. Subclasses add rows, a penalty, or a constraint."""

    family = "fine-tuning"
    trains = "weight"
    config: FineTuningConfig

    def __init__(
        self, model: LanguageModel, config: FineTuningConfig, *, graph: SubgraphSource | nx.DiGraph | None = None
    ) -> None:
        super().__init__(model, config, graph=graph)
        self.layer = config.layer_in(len(model.blocks))
        model.block(self.layer)  # raises early if the model has no such layer

    def check(self, edits: Sequence[Edit]) -> None:
        """Encode every edit's prompt, so that a prompt that can't be encoded raises before any edit is made."""
        for edit in edits:
            with annotate_errors(edit):
                self.row(edit)
                warn_of_lead(self.model, edit, method=self.name)

    def row(self, edit: Edit) -> TrainingRow:
        """The training row of an edit: its prompt and its target."""
        return statement_row(self.model, edit, self.config.aim, method=self.name)

    def rows(self, edit: Edit, before: Patch) -> list[TrainingRow]:
        """All training rows for ``edit``; the first one is its own."""
        return [self.row(edit)]

    def penalty(self, change: Tensor, before: Patch) -> Callable[[], Tensor] | None:
        """A function that computes a penalty on ``change`` [out, in], which is added to the loss; None here."""
        return None

    def constraint(self, change: Tensor, before: Patch) -> Callable[[], None]:
        """A function that corrects ``change`` [out, in] in place after each step; here it does nothing."""
        return lambda: None

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Tune the weight on the edit's rows."""
        (edit,) = edits
        with untouched(self.model):
            self.prepare()
            rows = self.rows(edit, before)
            tuned = WeightChange(self.model.down_projection(self.layer))
            losses = RowLosses(self.model, self.layer, rows)
            with tuned.applied():
                seen = self.config.descent.run(
                    [tuned.change],
                    lambda: losses().mean(),
                    penalty=self.penalty(tuned.change, before),
                    constrain=self.constraint(tuned.change, before),
                )
        notes = {"rows": len(rows)} if len(rows) > 1 else {}
        return self.patch(tuned.change.detach(), [record(self, edit, change=tuned.change, losses=seen) | notes])

    def patch(self, change: Tensor, records: list[dict[str, Any]]) -> Patch:
        """The patch that adds ``change`` [d, d_ff] to the tuned weight.

        Raises:
            PatchError: the change is not finite.
        """
        factors = {self.model.weight_name(self.layer): Factors.dense(change)}
        patch = WeightPatch(factors=factors, provenance={**self.provenance(), "edits": records})
        patch.check_finite()
        return patch

    def provenance(self) -> dict[str, Any]:
        """The provenance of every method, plus the layer."""
        said = super().provenance()
        said["methods"][0] |= {"layer": self.layer}
        return said


@torch.no_grad()
def record(method: EditingMethod, edit: Edit, *, change: Tensor, losses: Sequence[float]) -> dict[str, Any]:
    """The record of one edit for a patch: the norms of the change, the steps, the first and the last loss."""
    return {
        "edit": edit.model_dump(mode="json", exclude_defaults=True),
        "method": method.name,
        "norms": {"update": round(float(change.norm()), 6), "largest": round(float(change.abs().max()), 8)},
        "steps": len(losses),
        "loss_before": round(losses[0], 6),
        "loss_after": round(losses[-1], 6),
    }


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """A training row: token ids, and pairs (position, token that should be predicted there).

    ``prompt_end`` is the position of the prompt's last token; None for a plain text.
    """

    ids: tuple[int, ...]
    wanted: tuple[tuple[int, int], ...]
    prompt_end: int | None = None


def row_of(prompt: Prompt, aim: Aim, *, end: int | None = None) -> TrainingRow:
    """The training row for a prompt with its target; ``aim`` selects the tokens that are predicted.

    ``target``: each token of the target is predicted from all tokens before it; the prompt is masked. ``text``: every
    token of the prompt is predicted too, as in training on plain text. ``prompt_last``: the prompt's last token alone
    predicts all tokens of the target (the published baselines FT and FT-L). ``end`` is one more token at the end of the
    target; ``prompt_last`` ignores it.
    """
    start = prompt.target_start
    if aim == "prompt_last":
        wanted = tuple((start - 1, token) for token in prompt.target_ids)
        return TrainingRow(ids=prompt.ids[:start], wanted=wanted, prompt_end=start - 1)
    ids = prompt.ids if end is None else (*prompt.ids, end)
    first = start if aim == "target" else 1
    wanted = tuple((at - 1, ids[at]) for at in range(first, len(ids)))
    return TrainingRow(ids=ids[:-1], wanted=wanted, prompt_end=start - 1)


def statement_row(model: LanguageModel, edit: Edit, aim: Aim, *, method: str) -> TrainingRow:
    """The training row of an edit's prompt and target; with the aim ``text`` the row has the whole sentence.

    Raises:
        EditError, PromptError, ChatTemplateError: as `encode_statement`.
    """
    return row_of(encode_statement(model, edit, method=method, whole=aim == "text"), aim)


class RowLosses:
    """Computes the losses of rows, [rows]: the mean of -log P over the wanted tokens of a row.

    Only block ``layer`` and the blocks above may change between calls. So the first call runs the whole model, and
    later calls run only the blocks from ``layer`` on.
    """

    def __init__(self, model: LanguageModel, layer: int, rows: Sequence[TrainingRow]) -> None:
        self._model, self._layers = model, range(layer, len(model.blocks))
        ends = [row.prompt_end for row in rows]
        self._batch = left_pad([row.ids for row in rows], device=model.device, ends=ends)
        pads = [self._batch.ids.shape[1] - len(row.ids) for row in rows]
        wanted = [(index, pads[index] + at, token) for index, row in enumerate(rows) for at, token in row.wanted]
        self._owners, self._columns, self._tokens = (torch.tensor(part) for part in zip(*wanted, strict=True))
        self._counts = torch.tensor([len(row.wanted) for row in rows])
        self._recorded: RecordedBlocks | None = None

    def __call__(self) -> Tensor:
        """The losses [rows] in float32, differentiable in the parameters that hooks use."""
        logits = self.logits().float()
        tokens, owners, counts = beside((self._tokens, self._owners, self._counts), logits)
        nll = cross_entropy(logits, tokens, reduction="none")
        return nll.new_zeros(len(counts)).index_add(0, owners, nll) / counts

    def logits(self) -> Tensor:
        """The logits at the positions that predict wanted tokens, row after row, [wanted tokens, vocabulary]."""
        if self._recorded is None:
            self._recorded, hidden = RecordedBlocks.record(self._model, self._batch, self._layers)
        else:
            hidden = self._recorded.run(self._recorded.start)
        return self._model.logits(hidden[beside((self._owners, self._columns), hidden)])


class WeightChange:
    """A trainable change [out, in] of a projection's weight, in float32; ``change`` is a leaf tensor that starts at 0.

    In half precision the model uses the change that remains after the weight is rounded. The gradient ignores the
    rounding (straight-through).
    """

    def __init__(self, module: nn.Module) -> None:
        self._module, self._weight = module, weight_matrix(module)
        self.change = torch.zeros(self._weight.shape, device=self._weight.device, requires_grad=True)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the ``with`` block, the module's output is y + change x."""

        def add(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return output + linear(args[0].to(self.change), self._felt()).to(output)

        handle = self._module.register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()

    def _felt(self) -> Tensor:
        if self._weight.dtype == torch.float32:
            return self.change
        exact = self._weight.float() + self.change.detach()
        return self.change + (exact.to(self._weight.dtype).float() - exact)


@dataclass(frozen=True, kw_only=True)
class Descent:
    """Settings of a descent by Adam: at most ``steps`` evaluations; it stops when the loss is below ``stop_below``.

    ``weight_decay`` is added to the gradient as in Adam's paper; ``clip`` is the largest norm of the gradient.
    """

    steps: int
    learning_rate: float
    stop_below: float
    weight_decay: float = 0.0
    clip: float | None = None

    def run(
        self,
        parameters: Sequence[Tensor],
        loss: Callable[[], Tensor],
        *,
        penalty: Callable[[], Tensor] | None = None,
        constrain: Callable[[], None] = lambda: None,
    ) -> list[float]:
        """Train ``parameters`` in place; return the loss of each evaluation, without ``penalty``.

        No step follows the last evaluation, so the loss of the final parameters is known. ``constrain`` is called after
        each step.

        Raises:
            PatchError: a loss is not finite.
        """
        optimizer = torch.optim.Adam(list(parameters), lr=self.learning_rate, weight_decay=self.weight_decay)
        losses: list[float] = []
        for step in range(self.steps):
            found = loss()
            losses.append(checked_loss(found, step))
            report_losses(step, {0: losses[-1]})
            if losses[-1] < self.stop_below or step == self.steps - 1:
                break
            take_step(optimizer, found if penalty is None else found + penalty(), clip=self.clip)
            constrain()
        return losses


def take_step(optimizer: torch.optim.Optimizer, loss: Tensor, *, clip: float | None = None) -> None:
    """Take one step of the optimiser along the negative gradient of ``loss``, its norm at most ``clip``."""
    optimizer.zero_grad()
    loss.backward()
    if clip is not None:
        torch.nn.utils.clip_grad_norm_([one for group in optimizer.param_groups for one in group["params"]], clip)
    optimizer.step()


def checked_loss(loss: Tensor, step: int) -> float:
    """The loss as a float.

    Raises:
        PatchError: the loss is not finite.
    """
    found = float(loss.detach())
    if not torch.isfinite(loss.detach()).all():
        raise PatchError(f"the loss is {found} at step {step}; lower the learning rate, or load the model in float32")
    return found


def batches(count: int, size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """The indices 0 to ``count`` - 1 in random order, in batches of ``size``; ``seed`` and ``epoch`` fix the order."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    return [order[start : start + size] for start in range(0, count, size)]

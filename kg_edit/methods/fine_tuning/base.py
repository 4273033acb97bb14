"""The base of FT, FT-L, FT-M, EWC and LocFT: fine-tuning of one down-projection W [d, d_ff] by gradients.

The loss of an edit is the mean of -log P over the tokens that its row should predict (`rows`). Adam trains a change of
W that is never written into the model: it is added to the module's output while the model runs (`descent`). A step runs
only the blocks from the tuned one on. The change [d, d_ff] becomes a dense patch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import networkx as nx
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.graphs.source import SubgraphSource
from kg_edit.locate_then_edit.objective import tokens_within
from kg_edit.locate_then_edit.optimise import untouched
from kg_edit.methods.base import EditingMethod, annotate_errors, attempt
from kg_edit.methods.config import LayerConfig, MethodConfig
from kg_edit.methods.fine_tuning.descent import Descent, OwnDescent, descend, no_change
from kg_edit.methods.fine_tuning.rows import Aim, TrainingRow, statement_row
from kg_edit.methods.statement import warn_of_lead
from kg_edit.methods.workload import Workload
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import Factors, WeightPatch

_WithRows = tuple[Edit, Sequence[TrainingRow]]
_COPIES = 4  # of a change, while it is trained: it, its gradient, and Adam's two moments


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
        """Tune the weight on the edit's rows.

        Raises:
            PatchError: the loss or the change is not finite.
        """
        (edit,) = edits
        with untouched(self.model):
            self.prepare()
            (made,) = self._together([(edit, self.rows(edit, before))], before)
        if isinstance(made, Exception):
            raise made
        return made

    def edit_each(self, edits: Sequence[Edit]) -> tuple[Patch | Exception, ...]:
        """Make each edit alone, but as many in the same passes (`descent`) as ``memory`` allows."""
        self._prepare_unpatched()
        empty = self.empty_patch()
        with untouched(self.model):
            asked = [attempt(edit, partial(self.rows, edit, empty)) for edit in edits]
            able = [(edit, rows) for edit, rows in zip(edits, asked, strict=True) if not isinstance(rows, Exception)]
            made = iter([patch for some in self._groups(able) for patch in self._together(some, empty)])
        return tuple(rows if isinstance(rows, Exception) else next(made) for rows in asked)

    def _groups(self, edits: Sequence[_WithRows]) -> Iterator[list[_WithRows]]:
        """Groups of edits: the changes of a group take half of ``memory`` at most, and so does a pass of its rows."""
        size = _COPIES * no_change(self.model.down_projection(self.layer)).nbytes
        most, room = int(self.memory * 5e5 / size), tokens_within(self.model, self.layer, self.memory / 2)
        group = list[_WithRows]()
        for one in edits:
            rows = [row for _, own in (*group, one) for row in own]
            if group and (len(group) >= most or len(rows) * max(len(row.ids) for row in rows) > room):
                yield group
                group = []
            group.append(one)
        if group:
            yield group

    def _together(self, edits: Sequence[_WithRows], before: Patch) -> list[Patch | Exception]:
        """The patch of each edit, from descents in the same passes."""
        started = [self._start(rows, before) for _, rows in edits]
        descend(self.model, self.layer, started, self.config.descent)
        return [
            attempt(edit, partial(self._finished, edit, own)) for (edit, _), own in zip(edits, started, strict=True)
        ]

    def _start(self, rows: Sequence[TrainingRow], before: Patch) -> OwnDescent:
        """The descent of an edit, before its first step."""
        change = no_change(self.model.down_projection(self.layer))
        penalty, constrain = self.penalty(change, before), self.constraint(change, before)
        return OwnDescent(rows=rows, change=change, penalty=penalty, constrain=constrain)

    def _finished(self, edit: Edit, own: OwnDescent) -> Patch:
        """The patch of an edit after its descent."""
        if own.error:
            raise own.error
        notes = {"rows": len(own.rows)} if len(own.rows) > 1 else {}
        return self.patch(own.change.detach(), [record(self, edit, change=own.change, losses=own.losses) | notes])

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

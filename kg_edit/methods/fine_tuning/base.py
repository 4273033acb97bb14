"""What gradient methods share: `TuningMethod` has the training row of an edit, `FineTuning` tunes one weight on rows.

The loss of an edit is the mean of -log P over the tokens that its row should predict (`rows`). Adam trains a change of
the down-projection W [d, d_ff] that is never written into the model: it is added to the module's output while the model
runs (`descent`). A step runs only the blocks from the tuned one on. The change [d, d_ff] becomes a dense patch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.engine.passes import pass_limit
from kg_edit.errors import FAILURES
from kg_edit.methods.base import EditingMethod, annotate_errors
from kg_edit.methods.config import LayerConfig, MethodConfig
from kg_edit.methods.fine_tuning.descent import Descent, OwnDescent, descend, no_change
from kg_edit.methods.fine_tuning.rows import Aim, TrainingRow, row_of
from kg_edit.methods.statement import StatementMethod, encode_statement
from kg_edit.models.hooks import untouched
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import Factors, WeightPatch

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


class StatementConfig(TuningConfig):
    """Settings of a descent on the statement of an edit."""

    aim: Aim = Field(
        "target",
        description="trained tokens: of the target, of the whole text, or the target after the prompt's last token",
    )


class TuningMethod(StatementMethod):
    """A method that trains on the statement of an edit: its prompt with the new target."""

    takes_text = True
    config: StatementConfig

    def encode_edit(self, edit: Edit) -> TrainingRow:
        """Return the training row of an edit; with the aim ``text`` it includes the ending of the sentence."""
        aim = self.config.aim
        statement = encode_statement(self.model, edit, method=self.name, with_ending=aim == "text")
        return row_of(statement, aim)


class FineTuningConfig(LayerConfig, StatementConfig):
    """Settings of fine-tuning one down-projection."""

    layer: int | None = Field(None, ge=0, description="tuned block, 0-based; default 0.2 of the depth")


class Statement(NamedTuple):
    """An edit of a call, its position there, and its training rows."""

    position: int
    edit: Edit
    rows: Sequence[TrainingRow]


class FineTuning(TuningMethod):
    """Trains the down-projection of one block by Adam. Subclasses add rows, a penalty, or a constraint."""

    family = "fine-tuning"
    trains = "weight"
    config: FineTuningConfig

    def rows(self, edit: Edit, before: Patch) -> list[TrainingRow]:
        """Return all training rows for ``edit``; the first one is its own."""
        return [self.encode_edit(edit)]

    def penalty(self, change: Tensor, before: Patch) -> Callable[[], Tensor] | None:
        """Return a function that computes a penalty on ``change`` [d, d_ff], which is added to the loss; None here."""
        return None

    def constraint(self, change: Tensor, before: Patch) -> Callable[[], None]:
        """Return a function that corrects ``change`` [d, d_ff] in place after each step; here it does nothing."""
        return lambda: None

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Tune the weight on the edit's rows: a batch of one."""
        (result,) = self.make_each(edits, before=before)
        if isinstance(result, Exception):
            raise result
        return result

    def make_each(self, edits: Sequence[Edit], *, before: Patch | None = None) -> tuple[Patch | Exception, ...]:
        """Make each edit alone, but as many in the same passes (`descend`) as ``memory`` allows."""
        applied = self.empty_patch() if before is None else before
        with untouched(self.model):
            self.prepare()

            # The rows. An edit that can't be encoded has its exception as the result; the others are still made.
            results = dict[int, Patch | Exception]()
            statements = list[Statement]()
            for index, edit in enumerate(edits):
                try:
                    with annotate_errors(edit):
                        statements.append(Statement(index, edit, self.rows(edit, applied)))
                except FAILURES as error:
                    results[index] = error
            for group in self._groups(statements):
                results |= self._tune(group, applied)
        return tuple(results[index] for index in range(len(edits)))

    def _groups(self, statements: Sequence[Statement]) -> Iterator[list[Statement]]:
        """Yield groups of edits that share passes.

        The changes of a group take half of ``memory`` at most, and so does a pass of its rows.
        """
        change_bytes = _COPIES * no_change(self.model.down_projection(self.layer)).nbytes
        most_changes = int(self.memory * 5e5 / change_bytes)  # ``memory`` is in MB, and half of it is for changes
        most_tokens = pass_limit(self.model, self.layer, self.memory / 2).tokens
        group = list[Statement]()
        lengths = list[int]()  # of the rows of the group, in tokens
        for statement in statements:
            own_lengths = [len(row.ids) for row in statement.rows]
            lengths_together = lengths + own_lengths
            tokens = len(lengths_together) * max(lengths_together)  # a pass pads its rows to the longest
            if group and (len(group) >= most_changes or tokens > most_tokens):
                yield group
                group = []
                lengths_together = own_lengths
            group.append(statement)
            lengths = lengths_together
        if group:
            yield group

    def _tune(self, statements: Sequence[Statement], before: Patch) -> dict[int, Patch | Exception]:
        """Return the patch of each edit, by its index, from descents in the same passes."""
        descents = list[OwnDescent]()
        for statement in statements:
            change = no_change(self.model.down_projection(self.layer))
            penalty = self.penalty(change, before)
            constrain = self.constraint(change, before)
            descents.append(OwnDescent(rows=statement.rows, change=change, penalty=penalty, constrain=constrain))
        descend(self.model, self.layer, descents, self.config.descent)

        results = dict[int, Patch | Exception]()
        for statement, descent in zip(statements, descents, strict=True):
            try:
                with annotate_errors(statement.edit):
                    if descent.error:
                        raise descent.error
                    notes = record(self, statement.edit, change=descent.change, losses=descent.losses)
                    if len(statement.rows) > 1:
                        notes["rows"] = len(statement.rows)
                    results[statement.position] = self.patch(descent.change.detach(), [notes])
            except FAILURES as error:
                results[statement.position] = error
        return results

    def patch(self, change: Tensor, records: list[dict[str, Any]]) -> Patch:
        """Return the patch that adds ``change`` [d, d_ff] to the tuned weight."""
        factors = {self.model.weight_name(self.layer): Factors.dense(change)}
        return WeightPatch(factors=factors, provenance={**self.provenance(), "edits": records})


@torch.no_grad()
def record(method: EditingMethod, edit: Edit, *, change: Tensor, losses: Sequence[float]) -> dict[str, Any]:
    """Return the record of one edit for a patch: the norms of the change, the steps, the first and the last loss."""
    norms = {"update": round(float(change.norm()), 6), "largest": round(float(change.abs().max()), 8)}
    return {**method.record(edit), "norms": norms, **loss_notes(losses)}


def loss_notes(losses: Sequence[float]) -> dict[str, Any]:
    """Return what a record has of a descent: the number of evaluations, the first and the last loss."""
    return {"steps": len(losses), "loss_before": round(losses[0], 6), "loss_after": round(losses[-1], 6)}


def sum_changes(before: Patch, name: str, *, like: Tensor) -> Tensor:
    """Return the change [d, d_ff] of the weight ``name`` in the patch ``before``, with type and device of ``like``."""
    change = torch.zeros_like(like, requires_grad=False)
    for part in before.parts:
        if isinstance(part, WeightPatch) and name in part.factors:
            change += part.factors[name].product.to(change)
    return change

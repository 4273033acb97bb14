"""What gradient methods share: `TuningMethod` has the training row of an edit, `FineTuning` tunes one weight on rows.

The loss of an edit is the mean of -log P over the tokens that its row should predict (`rows`). Adam trains a change of
the down-projection W [d, d_ff] that is never written into the model: it is added to the module's output while the model
runs (`descent`). A step runs only the blocks from the tuned one on. The change [d, d_ff] becomes a dense patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.engine.passes import pass_limit
from kg_edit.errors import FAILURES
from kg_edit.methods.base import EditingMethod, annotate_errors
from kg_edit.methods.config import LayerConfig, MethodConfig
from kg_edit.methods.fine_tuning.descent import AdamDescent, DescentResult, EditDescent, descend_edits, new_change
from kg_edit.methods.fine_tuning.rows import Aim, TrainingRow, row_of
from kg_edit.methods.statement import StatementMethod, encode_statement
from kg_edit.models.hooks import keep_untouched
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch

_COPIES = 4  # of a change, while it is trained: it, its gradient, and Adam's two moments


class TuningConfig(MethodConfig):
    """Settings of a gradient descent: the number of steps, the learning rate, and when to stop."""

    steps: PositiveInt = Field(
        25, description="maximum number of loss evaluations; an optimiser step follows each but the last"
    )
    learning_rate: float = Field(5e-4, gt=0, description="learning rate of Adam")
    stop_below: float = Field(1e-2, description="training stops when the loss is below this value")

    @property
    def descent(self) -> AdamDescent:
        """Adam's descent with these settings."""
        return AdamDescent(steps=self.steps, learning_rate=self.learning_rate, stop_below=self.stop_below)


class StatementConfig(TuningConfig):
    """Settings of a descent on the statement of an edit."""

    aim: Aim = Field(
        "target",
        description="trained tokens: of the target, of the whole text, or the target after the prompt's last token",
    )


class TuningMethod(StatementMethod):
    """A method that trains on the statement of an edit: its prompt with the new target."""

    config: StatementConfig

    def encode_edit(self, edit: Edit) -> TrainingRow:
        """Return the training row of an edit; with the aim ``text`` it includes the ending of the sentence."""
        aim = self.config.aim
        statement = encode_statement(self.model, edit, method=self.name, with_ending=aim == "text")
        return row_of(statement, aim)


class FineTuningConfig(LayerConfig, StatementConfig):
    """Settings of fine-tuning one down-projection."""

    layer: int | None = Field(None, ge=0, description="tuned block, 0-based; default 0.2 of the depth")


class EncodedEdit(NamedTuple):
    """An edit of a call, its position there, and its training rows."""

    position: int
    edit: Edit
    rows: Sequence[TrainingRow]


class FineTuning(TuningMethod):
    """Trains the down-projection of one block by Adam. Subclasses add rows, a penalty, or a constraint."""

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
        """Tune the weight on the rows of one edit.

        In the base class `make_each` calls `make`; here it is the other way round, because edits share passes.
        """
        (result,) = self.make_each(edits, before=before)
        if isinstance(result, Exception):
            raise result
        return result

    def make_each(self, edits: Sequence[Edit], *, before: Patch | None = None) -> tuple[Patch | Exception, ...]:
        """Make each edit alone, but as many in the same passes (`descend_edits`) as ``memory`` allows."""
        applied = self.empty_patch() if before is None else before
        with keep_untouched(self.model):
            self.prepare()  # at once if `edit` has done it; a caller of `make_each` may not have

            # The rows. An edit that can't be encoded has its exception as the result; the others are still made.
            results = dict[int, Patch | Exception]()
            encoded_edits = list[EncodedEdit]()
            for index, edit in enumerate(edits):
                try:
                    with annotate_errors(edit):
                        encoded_edits.append(EncodedEdit(index, edit, self.rows(edit, applied)))
                except FAILURES as error:
                    results[index] = error
            for group in self._group(encoded_edits):
                results |= self._tune(group, applied)
        return tuple(results[index] for index in range(len(edits)))

    def _group(self, encoded_edits: Sequence[EncodedEdit]) -> list[list[EncodedEdit]]:
        """Divide the edits, in their order, into groups that share passes.

        The changes of a group take half of ``memory`` at most, and so does a pass of its rows. An edit that alone takes
        more is a group of its own.
        """
        change_bytes = _COPIES * new_change(self.model.down_projection(self.layer)).nbytes
        most_changes = int(self.memory * 5e5 / change_bytes)  # ``memory`` is in MB, and half of it is for changes
        most_tokens = pass_limit(self.model, self.layer, self.memory / 2).tokens
        groups = list[list[EncodedEdit]]()
        for encoded in encoded_edits:
            if groups and len(groups[-1]) < most_changes:
                larger_group = [*groups[-1], encoded]
                if _count_padded_tokens(larger_group) <= most_tokens:
                    groups[-1] = larger_group
                    continue
            groups.append([encoded])
        return groups

    def _tune(self, encoded_edits: Sequence[EncodedEdit], before: Patch) -> dict[int, Patch | Exception]:
        """Return the patch of each edit, or its exception, by its position; their descents share passes."""
        descents = list[EditDescent]()
        for encoded in encoded_edits:
            change = new_change(self.model.down_projection(self.layer))
            penalty = self.penalty(change, before)
            constrain = self.constraint(change, before)
            descents.append(EditDescent(rows=encoded.rows, change=change, penalty=penalty, constrain=constrain))
        results = descend_edits(self.model, self.layer, descents, self.config.descent)

        outcomes = dict[int, Patch | Exception]()
        for encoded, result in zip(encoded_edits, results, strict=True):
            try:
                with annotate_errors(encoded.edit):
                    outcomes[encoded.position] = self._make_patch(encoded, result)
            except FAILURES as error:
                outcomes[encoded.position] = error
        return outcomes

    def _make_patch(self, encoded: EncodedEdit, result: DescentResult) -> Patch:
        """Return the patch of an edit whose descent is done; raise the error that ended it."""
        if result.error:
            raise result.error
        notes = record_change(self, encoded.edit, change=result.change, losses=result.losses)
        if len(encoded.rows) > 1:
            notes["rows"] = len(encoded.rows)
        return self.patch(result.change, [notes])

    def patch(self, change: Tensor, records: list[dict[str, Any]]) -> Patch:
        """Return the patch that adds ``change`` [d, d_ff] to the tuned weight."""
        factors = {self.model.weight_name(self.layer): Factors.dense(change)}
        return WeightPatch(factors=factors, provenance={**self.provenance(), "edits": records})


def _count_padded_tokens(encoded_edits: Sequence[EncodedEdit]) -> int:
    """Return the number of tokens of a pass with all rows of the edits, each padded to the longest."""
    lengths = list[int]()
    for encoded in encoded_edits:
        lengths += [len(row.ids) for row in encoded.rows]
    return len(lengths) * max(lengths)


@torch.no_grad()
def record_change(method: EditingMethod, edit: Edit, *, change: Tensor, losses: Sequence[float]) -> dict[str, Any]:
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

"""The base class of methods that train an adapter at one down-projection (`kg_edit.patches.adapter_hooks`).

An edit's row is its prompt with the new target. The loss is the mean of -log P over the target's tokens. A step runs
only the blocks from the edited one on (`kg_edit.methods.fine_tuning.rows.RowLosses`). An edit is trained with the
adapter of earlier edits in place, and with all other earlier patches applied.

The functions give what an adapter reads: at a row's target (`inputs_at`), and in text that no edit is about, which the
model writes itself (`own_text_inputs`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from kg_edit.edits.edit import Edit
from kg_edit.engine.replay import block_output
from kg_edit.methods.config import LayerConfig, Trains
from kg_edit.methods.fine_tuning.base import TuningConfig
from kg_edit.methods.fine_tuning.rows import TrainingRow, row_of
from kg_edit.methods.statement import StatementMethod, encode_statement
from kg_edit.models.hooks import keep_untouched, watch
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import left_pad
from kg_edit.models.sampling import sample_rows
from kg_edit.patches.adapter_hooks import Reads, find_module_to_read
from kg_edit.patches.adapter_patch import Adapter, AdapterPatch, Place, adapter_at, without_adapter
from kg_edit.patches.base import Patch


class AdapterConfig(LayerConfig, TuningConfig):
    """Settings of methods that train an adapter of one layer."""

    depth: ClassVar[float] = 0.75
    writes_weight: ClassVar[bool] = False

    layer: int | None = Field(
        None, ge=0, description="block whose down-projection gets the adapter, 0-based; default 0.75 of the depth"
    )


class AdapterMethod(StatementMethod):
    """A method that trains an adapter. Subclasses name the adapter's class and define its training (`train`)."""

    family = "adapter"
    trains: ClassVar[Trains] = "weight"
    changed_part = "adapter"
    adapter_class: ClassVar[type[Adapter]]
    config: AdapterConfig

    @abstractmethod
    def train(self, edits: Sequence[Edit], earlier: Adapter | None) -> tuple[Adapter, list[dict[str, Any]]]:
        """Train on ``edits``, with the adapter of ``earlier`` edits if there is one.

        Returns:
            The adapter that these edits add to the earlier one, and a record of each edit.
        """

    @property
    def module(self) -> nn.Module:
        """The adapted down-projection."""
        return self.model.down_projection(self.layer)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (d, d_ff) of the down-projection's weight."""
        rows, columns = weight_matrix(self.module).shape
        return rows, columns

    @property
    def device(self) -> torch.device:
        """The device of the down-projection."""
        return next(self.module.parameters()).device

    @property
    def place(self) -> Place:
        """The place of the adapter in a patch: the method's name and the weight's name."""
        return self.adapter_class.method, self.model.weight_name(self.layer)

    def empty_patch(self) -> Patch:
        """Return an `AdapterPatch` without adapters; it changes nothing."""
        return AdapterPatch(adapters={}, provenance=self.provenance())

    def encode_edit(self, edit: Edit) -> TrainingRow:
        """Return the training row of an edit: its prompt and its target."""
        return row_of(encode_statement(self.model, edit, method=self.name), "target")

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Train on the edits, with the adapter of ``before`` in place."""
        with keep_untouched(self.model):
            adapter, records = self.train(edits, adapter_at(before, self.place))
        return AdapterPatch(adapters={self.place: adapter}, provenance={**self.provenance(), "edits": records})

    def _make_batch(self, edits: Sequence[Edit], before: Patch) -> Patch:
        # The adapter that is trained further is not applied: `train` runs it together with its change.
        rest = without_adapter(before, self.place) or self.empty_patch()
        with rest.applied(self.model):
            return self.make(edits, before=before)


@torch.no_grad()
def inputs_at(method: AdapterMethod, rows: Sequence[TrainingRow], *, reads: Reads) -> Tensor:
    """Return an adapter's inputs where the targets of rows are predicted.

    Args:
        method: whose layer is read.
        rows: prompts with targets.
        reads: what the adapter reads, the down-projection's input or the MLP's.

    Returns:
        The inputs at each token that predicts one of a target, row by row, [tokens, in] in float32.
    """
    seen: list[Tensor] = []
    ends = [row.prompt_end for row in rows]
    batch = left_pad([row.ids for row in rows], device=method.model.device, ends=ends)
    width = batch.ids.shape[1]

    def see(inputs: Tensor, _: Tensor) -> None:
        seen.append(inputs.reshape(len(rows) * width, -1).float())

    with watch(find_module_to_read(method.model, method.layer, reads), see):
        block_output(method.model, batch, method.layer)
    positions = list[int]()
    for index, row in enumerate(rows):
        first = (index + 1) * width - len(row.ids)  # the position of the row's first token: rows are padded on the left
        positions += [first + position for position, _ in row.targets]
    return seen[0][torch.tensor(positions, device=seen[0].device)]


@torch.no_grad()
def own_text_inputs(model: LanguageModel, layer: int, *, reads: Reads, texts: int, tokens: int, seed: int) -> Tensor:
    """Return the inputs of an adapter of block ``layer`` in texts that the model writes.

    Args:
        model: writes and reads the texts.
        layer: the adapted block.
        reads: what the adapter reads, the down-projection's input or the MLP's.
        texts: the number of texts.
        tokens: the length of each text.
        seed: of the sampling.

    Returns:
        The inputs at every token, [texts * (tokens + 1), in] in float32.
    """
    seen: list[Tensor] = []
    rows = sample_rows(model, rows=texts, tokens=tokens, seed=seed)

    def see(inputs: Tensor, _: Tensor) -> None:
        seen.append(inputs.reshape(-1, inputs.shape[-1]).float())

    with watch(find_module_to_read(model, layer, reads), see):
        block_output(model, left_pad(rows, device=model.device), layer)
    return seen[0]

"""The base class of methods that train a side: an extra module at one down-projection (`patches.adapter_hooks`).

An edit's row is its prompt with the new target. The loss is the mean of -log P over the target's tokens. A step runs
only the blocks from the edited one on (`kg_edit.methods.fine_tuning.rows.RowLosses`). An edit is trained with the side
of earlier edits in place, and with all other earlier patches applied.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import networkx as nx
from pydantic import Field
from torch import nn

from kg_edit.edits.edit import Edit
from kg_edit.graphs.source import SubgraphSource
from kg_edit.locate_then_edit.optimise import untouched
from kg_edit.methods.base import EditingMethod, annotate_errors
from kg_edit.methods.config import LayerConfig
from kg_edit.methods.fine_tuning.base import TuningConfig
from kg_edit.methods.fine_tuning.rows import TrainingRow, row_of
from kg_edit.methods.statement import encode_statement, warn_of_lead
from kg_edit.methods.workload import Trains
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.patches.adapter_patch import Side, SidePatch, side_of, without_side
from kg_edit.patches.base import Patch
from kg_edit.patches.guards import with_weight_norms


class BesideConfig(LayerConfig, TuningConfig):
    """Settings of methods that train a side beside one layer."""

    depth: ClassVar[float] = 0.75
    writes_weight: ClassVar[bool] = False

    layer: int | None = Field(
        None, ge=0, description="block whose down-projection gets the extra module, 0-based; default 0.75 of the depth"
    )


class BesideMethod(EditingMethod):
    """A method that trains a side of one kind. Subclasses define the training (`trained`)."""

    family = "beside"
    trains: ClassVar[Trains] = "weight"
    kind = "adapter"
    side_kind: ClassVar[str]
    config: BesideConfig

    def __init__(
        self, model: LanguageModel, config: BesideConfig, *, graph: SubgraphSource | nx.DiGraph | None = None
    ) -> None:
        super().__init__(model, config, graph=graph)
        self.layer = config.layer_in(len(model.blocks))
        model.block(self.layer)  # raises early if the model has no such layer

    @abstractmethod
    def trained(self, edits: Sequence[Edit], own: Side | None) -> tuple[Side, list[dict[str, Any]]]:
        """Train on ``edits``; return the side that they add, and a record of each edit.

        ``own`` is the side of earlier edits, or None.
        """

    @property
    def weight_name(self) -> str:
        """The name of the weight beside which the side stands."""
        return self.model.weight_name(self.layer)

    @property
    def module(self) -> nn.Module:
        """The down-projection beside which the side stands."""
        return self.model.down_projection(self.layer)

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (out, in) of the down-projection's weight."""
        rows, columns = weight_matrix(self.module).shape
        return rows, columns

    def empty_patch(self) -> Patch:
        """A `SidePatch` without sides; it changes nothing."""
        return SidePatch(sides={}, provenance=self.provenance())

    def check(self, edits: Sequence[Edit]) -> None:
        """Encode every edit's prompt, so that a prompt that can't be encoded raises before any edit is made."""
        for edit in edits:
            with annotate_errors(edit):
                self.row(edit)
                warn_of_lead(self.model, edit, method=self.name)

    def row(self, edit: Edit) -> TrainingRow:
        """The training row of an edit: its prompt and its target."""
        return row_of(encode_statement(self.model, edit, method=self.name), "target")

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Train on the edits, with the side of ``before`` in place."""
        with untouched(self.model):
            side, records = self.trained(edits, side_of(before, self._place))
        patch = SidePatch(sides={self._place: side}, provenance={**self.provenance(), "edits": records})
        patch.check_finite()
        return patch

    def provenance(self) -> dict[str, Any]:
        """The provenance of every method, plus the layer."""
        said = super().provenance()
        said["methods"][0] |= {"layer": self.layer}
        return said

    def _made(self, edits: Sequence[Edit], before: Patch) -> Patch:
        """Call `make` with all of ``before`` applied, except the side that is trained further."""
        before.check_model(self.model)
        rest = without_side(before, self._place) or self.empty_patch()
        with rest.applied(self.model):
            made = self.make(edits, before=before)
        return with_weight_norms(made, self.model)

    @property
    def _place(self) -> tuple[str, str]:
        return self.side_kind, self.weight_name

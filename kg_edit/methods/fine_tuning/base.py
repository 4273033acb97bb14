"""What all fine-tuning of one weight shares: the rows, a change that is added while the model runs, the descent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import networkx as nx
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.graphs.encoding import SubgraphSource
from kg_edit.methods.base import EditingMethod, MethodConfig, naming
from kg_edit.methods.common_settings import default_layer
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.tuning.loop import Descent, WeightChange
from kg_edit.tuning.rows import Aim, Row, RowLosses, row_of
from kg_edit.value.optimise import untouched


class TuningConfig(MethodConfig):
    """What every descent on weights needs."""

    steps: PositiveInt = Field(25, description="looks at the loss at most; a step between two")
    learning_rate: float = Field(5e-4, gt=0, description="of Adam")
    stop_below: float = Field(1e-2, description="a loss that is small enough")

    @property
    def descent(self) -> Descent:
        """The descent with these settings."""
        return Descent(steps=self.steps, learning_rate=self.learning_rate, stop_below=self.stop_below)


class FineTuningConfig(TuningConfig):
    """Settings of fine-tuning one down-projection."""

    layer: int | None = Field(None, ge=0, description="tuned layer, 0-based; default 0.2 of the depth")
    aim: Aim = Field("target", description="what is predicted: the target, the whole text, or all from prompt_last")


class FineTuning(EditingMethod):
    """Adam on the down-projection of one block. Subclasses add rows, a penalty, or a bound."""

    config: FineTuningConfig

    def __init__(
        self, model: LanguageModel, config: FineTuningConfig, *, graph: SubgraphSource | nx.DiGraph | None = None
    ) -> None:
        super().__init__(model, config, graph=graph)
        self.layer = tuned_layer(model, config.layer)

    def check(self, edits: Sequence[Edit]) -> None:
        """Encode every edit's prompt once."""
        for edit in edits:
            with naming(edit):
                self.row(edit)

    def row(self, edit: Edit) -> Row:
        """What one edit asks."""
        return row_of(self.model.encode(edit.text, target=edit.target_new), self.config.aim)

    def rows(self, edit: Edit, before: Patch) -> list[Row]:
        """All rows that are trained on for ``edit``; its own comes first."""
        return [self.row(edit)]

    def penalty(self, change: Tensor) -> Callable[[], Tensor] | None:
        """What is added to the loss, as a function of ``change`` [out, in]; nothing here."""
        return None

    def constraint(self, change: Tensor, before: Patch) -> Callable[[], None]:
        """What puts ``change`` [out, in] right after each step; nothing here."""
        return lambda: None

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Tune the weight on the edit's rows."""
        (edit,) = edits
        with untouched(self.model):
            self.prepare()
            rows = self.rows(edit, before)
            tuned = WeightChange(self.model.down_projection(self.layer))
            losses = RowLosses(self.model, self.layer, rows)
            with tuned.worn():
                seen = self.config.descent.run(
                    [tuned.change],
                    lambda: losses().mean(),
                    penalty=self.penalty(tuned.change),
                    constrain=self.constraint(tuned.change, before),
                )
        notes = {"rows": len(rows)} if len(rows) > 1 else {}
        return self.patch(tuned.change.detach(), [record(self, edit, change=tuned.change, losses=seen) | notes])

    def patch(self, change: Tensor, records: list[dict[str, Any]]) -> Patch:
        """The change of the weight as a patch."""
        factors = {self.model.weight_name(self.layer): Factors.dense(change)}
        patch = WeightPatch(factors=factors, provenance={**self.provenance(), "edits": records})
        patch.check_finite()
        return patch

    def provenance(self) -> dict[str, Any]:
        """As every method's, with the layer."""
        said = super().provenance()
        said["methods"][0] |= {"layer": self.layer}
        return said


def tuned_layer(model: LanguageModel, layer: int | None) -> int:
    """The layer to tune.

    Raises:
        ModelError: the model has no such layer.
    """
    chosen = default_layer(len(model.blocks)) if layer is None else layer
    model.block(chosen)
    return chosen


@torch.no_grad()
def record(method: EditingMethod, edit: Edit, *, change: Tensor, losses: Sequence[float]) -> dict[str, Any]:
    """What a patch says of one edit: the change's norms, the steps, the loss at both ends."""
    return {
        "edit": edit.model_dump(mode="json", exclude_defaults=True),
        "method": method.name,
        "norms": {"update": round(float(change.norm()), 6), "largest": round(float(change.abs().max()), 8)},
        "steps": len(losses),
        "loss_before": round(losses[0], 6),
        "loss_after": round(losses[-1], 6),
    }

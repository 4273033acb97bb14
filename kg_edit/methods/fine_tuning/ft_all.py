"""Fine-tuning of all weights: Adam on every matrix of the blocks at once, for one edit.

It changes the matrices [out, in] of the blocks' attention and MLPs, which are 4/5 of the parameters of SmolLM2-135M.
Embeddings, head, biases and norms do not change. The loss is that of `FineTuning`: the mean of -log P over the wanted
tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import networkx as nx
from pydantic import Field, PositiveInt

from kg_edit.edits.edit import Edit
from kg_edit.graphs.source import SubgraphSource
from kg_edit.locate_then_edit.optimise import untouched
from kg_edit.methods.base import EditingMethod, annotate_errors
from kg_edit.methods.config import Layers
from kg_edit.methods.fine_tuning.base import TuningConfig
from kg_edit.methods.fine_tuning.descent import WeightChange
from kg_edit.methods.fine_tuning.lora import is_projection
from kg_edit.methods.fine_tuning.rows import Aim, RowLosses, TrainingRow, statement_row
from kg_edit.methods.statement import warn_of_lead
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import Factors, WeightPatch


class FtAllConfig(TuningConfig):
    """Settings of fine-tuning all weights."""

    steps: PositiveInt = Field(
        25, description="maximum number of loss evaluations; an optimiser step follows each but the last"
    )
    learning_rate: float = Field(
        2e-5, gt=0, description="learning rate of Adam; the rate for a single weight would ruin the model"
    )
    layers: Layers | None = Field(None, description="tuned blocks, 0-based; default all")
    aim: Aim = Field(
        "target",
        description="trained tokens: of the target, of the whole text, or the target after the prompt's last token",
    )

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """The layers in the settings, or all layers."""
        return tuple(range(blocks)) if self.layers is None else self.layers


class FtAll(EditingMethod):
    """Every matrix of the blocks is tuned on the edit's target; the most that fine-tuning can do for one fact.

    The patch has whole matrices: it is as large as the model's blocks in float32 (424 MB for SmolLM2-135M, in a file
    632 MB), and so is the sum of many. ``layers`` restricts it to some blocks.
    """

    name = "ft-all"
    paper = "baseline in De Cao et al., EMNLP 2021, arXiv 2104.08164"
    about = "fine-tune all matrices of all blocks on the target"
    family = "fine-tuning"
    trains = "all weights"
    config_class = FtAllConfig
    config: FtAllConfig

    def __init__(
        self, model: LanguageModel, config: FtAllConfig, *, graph: SubgraphSource | nx.DiGraph | None = None
    ) -> None:
        super().__init__(model, config, graph=graph)
        self.layers = config.written_layers(len(model.blocks))
        self.targets = [name for layer in self.layers for name in matrices_of(model, layer)]

    def check(self, edits: Sequence[Edit]) -> None:
        """Encode every edit's prompt, so that a prompt that can't be encoded raises before any edit is made."""
        for edit in edits:
            with annotate_errors(edit):
                self.row(edit)
                warn_of_lead(self.model, edit, method=self.name)

    def row(self, edit: Edit) -> TrainingRow:
        """The training row of an edit: its prompt and its target."""
        return statement_row(self.model, edit, self.config.aim, method=self.name)

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Tune all the weights on the edit's row."""
        (edit,) = edits
        with untouched(self.model), tuned(self.model, self.targets) as changes:
            losses = RowLosses(self.model, self.layers[0], [self.row(edit)])
            seen = self.config.descent.run([change.change for change in changes.values()], lambda: losses().mean())
        factors = {f"{name}.weight": Factors.dense(change.change.detach()) for name, change in changes.items()}
        found = {**self.provenance(), "edits": [self._record(edit, changes, seen)]}
        patch = WeightPatch(factors=factors, provenance=found)
        patch.check_finite()
        return patch

    def _record(self, edit: Edit, changes: Mapping[str, WeightChange], seen: Sequence[float]) -> dict[str, Any]:
        """The record of the edit for the patch: the norm of all changes, the largest number, the steps, the losses."""
        norms = [float(change.change.detach().norm()) for change in changes.values()]
        largest = max(float(change.change.detach().abs().max()) for change in changes.values())
        return {
            "edit": edit.model_dump(mode="json", exclude_defaults=True),
            "method": self.name,
            "norms": {"update": round(sum(norm**2 for norm in norms) ** 0.5, 6), "largest": round(largest, 8)},
            "steps": len(seen),
            "loss_before": round(seen[0], 6),
            "loss_after": round(seen[-1], 6),
        }


def matrices_of(model: LanguageModel, layer: int) -> list[str]:
    """The full names of all projections of block ``layer``.

    Raises:
        ModelError: the model has no such layer.
    """
    inside = model.block(layer).named_modules()
    return [f"{model.spec.blocks}.{layer}.{name}" for name, module in inside if is_projection(module)]


@contextmanager
def tuned(model: LanguageModel, names: Sequence[str]) -> Iterator[dict[str, WeightChange]]:
    """Within the ``with`` block, add a trainable change, which starts at 0, to each of the modules ``names``.

    The weights themselves do not change.
    """
    with ExitStack() as stack:
        changes = {name: WeightChange(model.model.get_submodule(name)) for name in names}
        for change in changes.values():
            stack.enter_context(change.applied())
        yield changes

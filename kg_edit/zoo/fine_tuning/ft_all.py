"""Fine-tuning of all weights: Adam on every matrix of the blocks at once, for one edit.

It changes the matrices [out, in] of the blocks' attention and MLPs, which are 4/5 of the parameters of SmolLM2-135M.
Embeddings, head, biases and norms do not change. The loss is that of `FineTuning`: the mean of -log P over the wanted
tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from pydantic import Field
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.methods.config import Layers
from kg_edit.methods.fine_tuning.base import StatementConfig, TuningMethod, loss_notes
from kg_edit.methods.fine_tuning.descent import add_changes, new_change
from kg_edit.methods.fine_tuning.rows import RowLosses
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.fine_tuning.lora import is_projection


class FtAllConfig(StatementConfig):
    """Settings of fine-tuning all weights."""

    learning_rate: float = Field(
        2e-5, gt=0, description="learning rate of Adam; the rate for a single weight would ruin the model"
    )
    layers: Layers | None = Field(None, description="tuned blocks, 0-based; default all")

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """Return the layers in the settings, or all layers."""
        return tuple(range(blocks)) if self.layers is None else self.layers


class FtAll(TuningMethod):
    """Every matrix of the blocks is tuned on the edit's target.

    The patch has whole matrices: it is as large as the model's blocks in float32 (425 MB for SmolLM2-135M, in a file
    632 MB), and so is the sum of many. ``layers`` restricts it to some blocks.
    """

    entry = method_entry("ft-all")
    trains = "all weights"
    config_class = FtAllConfig
    config: FtAllConfig

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Tune all the weights on the edit's row."""
        (edit,) = edits
        targets = list[str]()
        for layer in self.layers:
            targets += matrices_of(self.model, layer)
        # Every change starts at 0, so the first loss is that of the model as it is.
        with keep_untouched(self.model), tuned(self.model, targets) as changes:
            row_losses = RowLosses(self.model, self.layer, [self.encode_edit(edit)])
            losses = self.config.descent.run(list(changes.values()), lambda: row_losses().mean())

        factors = dict[str, Factors]()
        square = 0.0  # |all changes|^2
        largest = 0.0
        for name, change in changes.items():
            factors[f"{name}.weight"] = Factors.dense(change.detach())
            square += float(change.detach().norm()) ** 2
            largest = max(largest, float(change.detach().abs().max()))
        norms = {"update": round(square**0.5, 6), "largest": round(largest, 8)}
        record = {**self.record(edit), "norms": norms, **loss_notes(losses)}
        return WeightPatch(factors=factors, provenance={**self.provenance(), "edits": [record]})


def matrices_of(model: LanguageModel, layer: int) -> list[str]:
    """Return the full names of all projections of block ``layer``."""
    modules = model.block(layer).named_modules()
    return [f"{model.spec.blocks}.{layer}.{name}" for name, module in modules if is_projection(module)]


@contextmanager
def tuned(model: LanguageModel, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within the ``with`` block, add a trainable change [out, in], which starts at 0, to each of the modules ``names``.

    The weights themselves do not change.
    """
    modules = {name: model.model.get_submodule(name) for name in names}
    changes = {name: new_change(module) for name, module in modules.items()}
    with ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(add_changes(module, [changes[name]]))
        yield changes

"""LocFT-BF (ICLR 2026, arXiv 2509.22072): fine-tune one weight on all edits together, breadth first.

Each epoch trains every edit once, in mini-batches that are drawn again for each epoch (`train_epochs`). The end-of-text
token follows the target, so that the model learns to stop there.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, PositiveInt

from kg_edit.edits.edit import Edit
from kg_edit.errors import PromptError
from kg_edit.methods.base import EditingMethod, annotate_errors
from kg_edit.methods.config import Workload
from kg_edit.methods.fine_tuning.base import FineTuning, FineTuningConfig, record_change
from kg_edit.methods.fine_tuning.descent import add_changes, new_change
from kg_edit.methods.fine_tuning.epochs import train_epochs
from kg_edit.methods.fine_tuning.rows import TrainingRow, row_of
from kg_edit.methods.statement import encode_statement
from kg_edit.models.hooks import keep_untouched
from kg_edit.patches.base import Patch
from kg_edit.storage.setting_fields import Seed
from kg_edit.zoo.entries import method_entry


class LocFtConfig(FineTuningConfig):
    """Settings of LocFT-BF. The paper tunes block 22 of 32 for LLaMA-3-8B, and 6 of 28 for Qwen2.5-7B."""

    steps: PositiveInt = Field(25, description="maximum number of epochs; each but the last trains every edit once")
    learning_rate: float = Field(1e-3, gt=0, description="learning rate of Adam; published: 5e-4")
    batch_size: PositiveInt = Field(8, description="edits in a step; published: 100, for batches of thousands")
    end: bool = Field(True, description="add the end-of-text token to the target (not with aim prompt_last)")
    seed: Seed = Field(0, description="random seed of the order of the edits")

    def workload(self, *, edits: int) -> Workload:
        """Return the workload: a step has the rows of ``batch_size`` edits."""
        return Workload(rows=min(edits, self.batch_size))


class LocFt(FineTuning):
    """Breadth first: each epoch trains every edit once, in mini-batches that are drawn again for each epoch."""

    entry = method_entry("locft")
    config_class = LocFtConfig
    config: LocFtConfig

    def encode_edit(self, edit: Edit) -> TrainingRow:
        """Return the training row of an edit: its prompt and its target, and the end-of-text token as ``end`` sets."""
        end = None
        if self.config.end:
            end = self.model.tokenizer.eos_token_id
            if end is None:
                raise PromptError(f"the tokenizer of {self.model.name!r} has no end-of-text token; set end=false")
        prompt = encode_statement(self.model, edit, method=self.name, with_ending=self.config.aim == "text")
        return row_of(prompt, self.config.aim, end=end)

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Tune the weight on all edits' rows together; the change is the same for all records."""
        config = self.config
        module = self.model.down_projection(self.layer)
        with keep_untouched(self.model):
            rows = list[TrainingRow]()
            for edit in edits:
                with annotate_errors(edit):
                    rows.append(self.encode_edit(edit))
            change = new_change(module)
            with add_changes(module, [change]):
                losses = train_epochs(
                    self.model,
                    rows,
                    [change],
                    config.descent,
                    batch_size=config.batch_size,
                    seed=config.seed,
                    edits=len(edits),
                    name=self.name,
                    layer=self.layer,
                    skip_learned=True,
                )
        records = []
        for edit, edit_losses in zip(edits, losses.tolist(), strict=True):
            records.append(record_change(self, edit, change=change, losses=edit_losses))
        return self.patch(change.detach(), records)

    def make_each(self, edits: Sequence[Edit], *, before: Patch | None = None) -> tuple[Patch | Exception, ...]:
        """Make each edit alone, one after the other: descents by mini-batches can't share passes of the model."""
        return EditingMethod.make_each(self, edits, before=before)

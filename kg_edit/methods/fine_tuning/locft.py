"""LocFT-BF: fine-tune one weight on all edits together, in mini-batches over many epochs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, PositiveInt
from tqdm import tqdm

from kg_edit.callbacks import report_losses
from kg_edit.edits.edit import Edit, refuse_clash
from kg_edit.errors import PromptError
from kg_edit.locate_then_edit.optimise import untouched
from kg_edit.methods.base import EditingMethod, annotate_errors
from kg_edit.methods.fine_tuning.base import FineTuning, FineTuningConfig, record
from kg_edit.methods.fine_tuning.descent import WeightChange, checked_loss, take_step
from kg_edit.methods.fine_tuning.rows import RowLosses, TrainingRow, batches, row_of
from kg_edit.methods.statement import encode_statement
from kg_edit.patches.base import Patch
from kg_edit.storage.seeds import Seed


class LocFtConfig(FineTuningConfig):
    """Settings of LocFT-BF. The paper tunes block 22 of 32 for LLaMA-3-8B, and 6 of 28 for Qwen2.5-7B."""

    steps: PositiveInt = Field(25, description="maximum number of epochs; each but the last trains every edit once")
    learning_rate: float = Field(1e-3, gt=0, description="learning rate of Adam; published: 5e-4")
    batch_size: PositiveInt = Field(8, description="edits in a step; published: 100, for batches of thousands")
    end: bool = Field(True, description="add the end-of-text token to the target (not with aim prompt_last)")
    seed: Seed = Field(0, description="random seed of the order of the edits")


class LocFt(FineTuning):
    """Breadth first: each epoch trains every edit once, in mini-batches that are drawn again for each epoch."""

    name = "locft"
    paper = "LocFT-BF, ICLR 2026, arXiv 2509.22072"
    about = "fine-tune one down-projection on all edits at once, in mini-batches over many epochs"
    joint = True
    config_class = LocFtConfig
    config: LocFtConfig

    def row(self, edit: Edit) -> TrainingRow:
        """The training row of an edit: its prompt and its target, with the end-of-text token if ``end`` is set.

        Raises:
            PromptError: the tokenizer has no end-of-text token.
        """
        end = self.model.tokenizer.eos_token_id if self.config.end else None
        if self.config.end and end is None:
            raise PromptError(f"the tokenizer of {self.model.name!r} has no end-of-text token; set end=false")
        prompt = encode_statement(self.model, edit, method=self.name, whole=self.config.aim == "text")
        return row_of(prompt, self.config.aim, end=end)

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Tune the weight on all edits' rows together."""
        refuse_clash(edits)
        with untouched(self.model):
            rows = list[TrainingRow]()
            for edit in edits:
                with annotate_errors(edit):
                    rows.append(self.row(edit))
            tuned = WeightChange(self.model.down_projection(self.layer))
            with tuned.applied():
                epochs = self._tune(tuned, rows)
        seen = torch.stack(epochs, 1).tolist()
        records = [record(self, edit, change=tuned.change, losses=own) for edit, own in zip(edits, seen, strict=True)]
        return self.patch(tuned.change.detach(), records)

    def edit_each(self, edits: Sequence[Edit]) -> tuple[Patch | Exception, ...]:
        """Make each edit in turn; mini-batches are no descents that could share passes."""
        return EditingMethod.edit_each(self, edits)

    def _tune(self, tuned: WeightChange, rows: Sequence[TrainingRow]) -> list[torch.Tensor]:
        """Train for some epochs; return the losses [rows] of each epoch, computed right before the step of a batch."""
        config, epochs = self.config, list[torch.Tensor]()
        optimizer = torch.optim.Adam([tuned.change], lr=config.learning_rate)
        quiet = True if len(rows) <= config.batch_size else None  # None: show the bar only in a terminal
        for epoch in tqdm(range(config.steps), desc=self.name, unit="epoch", disable=quiet):
            losses = torch.zeros(len(rows))
            for batch in batches(len(rows), config.batch_size, seed=config.seed, epoch=epoch):
                found = RowLosses(self.model, self.layer, [rows[place] for place in batch])()
                checked_loss(found.mean(), epoch)
                losses[batch] = found.detach().cpu()
                if float(found.detach().mean()) >= config.stop_below and epoch < config.steps - 1:
                    take_step(optimizer, found.mean())
            epochs.append(losses)
            report_losses(epoch, dict(enumerate(losses.tolist())), of=len(rows))
            if float(losses.mean()) < config.stop_below:
                break
        return epochs

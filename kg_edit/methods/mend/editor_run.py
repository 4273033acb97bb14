"""The training run of a network that turns an edit's gradient into its change: what MEND's and KE's have in common.

In each step the same lower blocks would compute the same states of the same prompts again. If the steps draw each
prompt twice or more, these states are computed once (`kg_edit.models.lower_states`), and are stored beside the
checkpoint until the run ends.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from kg_edit.errors import ModelError
from kg_edit.methods.mend.examples import BatchOrder, Rows
from kg_edit.methods.mend.gradients import first_block, read_tokens
from kg_edit.methods.mend.losses import Losses
from kg_edit.methods.mend.store import Validation
from kg_edit.methods.trained.files import Manifest
from kg_edit.methods.trained.training import STATES, State, TrainingRun
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.lower_states import LowerStates, lower_states

_STATES_GB = 4.0  # more than that is not stored


class EditorRun(TrainingRun[Validation]):
    """A training run of a network that edits the weights ``names``."""

    state: State[Validation]

    def __init__(
        self, model: LanguageModel, order: BatchOrder, names: Sequence[str], state: State[Validation], path: Path
    ) -> None:
        self.model, self.order, self._first = model, order, first_block(model, names)
        self._file = path.with_name(STATES)
        self._lower: LowerStates | None = None
        super().__init__(state, order.settings, path)

    @abstractmethod
    def losses_of(self, rows: Rows, lower: LowerStates | None) -> Losses:
        """The losses after the edits of ``rows``."""

    def losses(self, rows: Rows) -> Losses:
        """The losses after the edits of ``rows``.

        Raises:
            ModelError: a loss is not finite.
        """
        losses = self.losses_of(rows, self._lower)
        if not torch.isfinite(losses.total):
            step = self.state.progress.step
            raise ModelError(f"after {step} steps the loss is not finite; train with a lower learning_rate or edit_lr")
        return losses

    def held_out(self) -> tuple[float, float]:
        """The mean losses on the held-out edits: L_e, and the KL."""
        sums, count = torch.zeros(2, dtype=torch.float64), 0
        for rows in self.order.validation():
            losses, size = self.losses(rows), len(rows.edits)
            sums += size * torch.stack([losses.edit, losses.locality]).detach().cpu()
            count += size
        edit, locality = (sums / count).tolist()
        return edit, locality

    def learned_from(self) -> Mapping[str, int]:
        """The number of training edits, ``examples``."""
        return {"examples": len(self.order.examples)}

    def prepare(self, *, progress: bool) -> None:
        """Compute the states of the lower blocks, if the steps draw each prompt twice or more."""
        rows, settings = {read_tokens(prompt) for prompt in self.order.prompts()}, self.order.settings
        drawn = settings.steps * settings.batch * (3 + settings.questions)
        size = sum(map(len, rows)) * self.model.width * self.model.model.dtype.itemsize
        if self._first and drawn >= 2 * len(rows) and size <= _STATES_GB * 1e9:
            self._lower = lower_states(self.model, rows, self._first, self._file, progress=progress)

    def finish(self, path: Path, manifest: Manifest) -> Manifest:
        """Complete and write the network; delete the checkpoint and the states."""
        done = super().finish(path, manifest)
        self._file.unlink(missing_ok=True)
        return done

"""The training of RLEdit (Li et al., ICML 2025, arXiv 2502.05759): one step for a sequence of updates.

The steps are those of `kg_edit.zoo.malmen.training`: the updates stay in the weights, the loss after each of them
also has the prompts of the batches before, with decay, and the squared norm of the update.

In the public program this norm has no gradient, and the sum of the gradients so far is clipped after each update; here
once, before the step. Its statistics of the network's input go on with every update, as in its MALMEN; here they are
those of the unedited model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.models.language_model import LanguageModel
from kg_edit.zoo.malmen.training import MalmenRun
from kg_edit.zoo.mend.training import train_editor
from kg_edit.zoo.rledit.network import FORMAT, RLEditManifest, RLEditTraining
from kg_edit.zoo.trained.training import CHECKPOINT_SECONDS


class RLEditRun(MalmenRun):
    """A training run of RLEdit."""

    name = "rledit"
    format = FORMAT


def train(
    model: LanguageModel,
    edits: Sequence[Edit | BenchmarkRecord],
    settings: RLEditTraining,
    out: Path,
    *,
    progress: bool = True,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> RLEditManifest:
    """Train an editor for ``model``, and write the one with the best loss on the held-out edits to ``out``.

    The arguments are those of `kg_edit.zoo.mend.training.train`.
    """
    return train_editor(
        model,
        edits,
        settings,
        out,
        kind=RLEditManifest,
        run=RLEditRun,
        format=FORMAT,
        progress=progress,
        checkpoint_seconds=checkpoint_seconds,
    )

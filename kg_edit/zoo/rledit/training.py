"""The training of RLEdit (Li et al., ICML 2025, arXiv 2502.05759): one step for a sequence of updates.

The steps are those of `kg_edit.zoo.malmen.training`: a step applies a sequence of updates, each of which stays in the
weights for the next ones. The loss after an update is about its own batch and, with decaying weight, about the batches
before it, so that a network learns to preserve earlier edits. It also has the squared norm of the update.

Three things differ from the authors' program:

- the norm of the update has a gradient here; there it has none.
- the sum of the gradients is clipped once, before the step; there it is clipped after each update.
- the network's input is normalised with statistics of the unedited model; there every update changes them, as in the
  authors' MALMEN.
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

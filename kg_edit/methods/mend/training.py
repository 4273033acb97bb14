"""The training of MEND's editor network: Adam on the losses of models that were each edited once (MEND, Eq. 4).

The losses are those of `kg_edit.methods.mend.losses`; `kg_edit.methods.mend.editor_run` has what this training shares
with KE's. A run that was killed continues from a checkpoint to the same result, bit for bit
(`kg_edit.methods.trained`). `kg_edit.methods.mend.method` makes edits with the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from kg_edit.datasets.record import BenchmarkRecord
from kg_edit.edits.edit import Edit
from kg_edit.methods.mend.editor_run import EditorRun
from kg_edit.methods.mend.examples import BatchOrder, Rows
from kg_edit.methods.mend.gradients import felt_factors, mlp_weights, weight_shapes
from kg_edit.methods.mend.losses import Losses, losses_after
from kg_edit.methods.mend.store import FORMAT, Manifest, MendTraining, Validation
from kg_edit.methods.trained.lessons import digest_of, lessons_of
from kg_edit.methods.trained.training import CHECKPOINT_SECONDS, Progress, State, keep_trained
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.lower_states import LowerStates

__all__ = ["train"]


def train(
    model: LanguageModel,
    edits: Sequence[Edit | BenchmarkRecord],
    settings: MendTraining,
    out: Path,
    *,
    progress: bool = True,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Manifest:
    """Train an editor for ``model`` on ``edits``, and write it to the folder ``out``.

    The editor with the best loss on the held-out edits is kept. Called again, an interrupted run continues, and a
    finished run does nothing. The model is unchanged.

    Raises:
        ConfigError: there are too few edits, or a weight can't be edited.
        ModelError: a loss is not finite, or the file of an interrupted run is damaged.
        OutputError: ``out`` contains another run, or can't be written.
    """
    manifest = _manifest(model, edits, settings)
    return keep_trained(
        model,
        manifest,
        out,
        lambda path: _Run(model, BatchOrder.of(model, edits, settings), manifest, path),
        format=FORMAT,
        progress=progress,
        checkpoint_seconds=checkpoint_seconds,
    )


def _manifest(model: LanguageModel, edits: Sequence[Edit | BenchmarkRecord], settings: MendTraining) -> Manifest:
    return Manifest(
        model=model.fingerprint,
        model_name=model.name,
        shapes=weight_shapes(model, settings.weights or mlp_weights(model, settings.blocks)),
        training=settings,
        edits=digest_of(lessons_of(edits)),
    )


class _Run(EditorRun):
    """A training run of MEND."""

    name = "mend"

    def __init__(self, model: LanguageModel, order: BatchOrder, manifest: Manifest, path: Path) -> None:
        self._manifest, settings = manifest, manifest.training
        self._network = manifest.network().to(model.device)
        groups = [
            {"params": list(self._network.layers.parameters()), "lr": settings.learning_rate},
            {"params": [self._network.log_rates], "lr": settings.rate_learning_rate},
        ]
        optimizer = torch.optim.Adam(groups)
        state = State(format=FORMAT, network=self._network, optimizer=optimizer, progress=Progress[Validation]())
        super().__init__(model, order, tuple(manifest.shapes), state, path)

    def begin(self) -> None:
        """Compute the mean and the deviation of the factors."""
        names = list(self._manifest.shapes)
        self._network.normalise_by(felt_factors(self.model, self.order.for_normalising(), names))

    def backward(self, step: int) -> Mapping[str, str]:
        """Compute the losses of the step's rows and their gradient; return the losses to display."""
        losses = self.losses(self.order.rows(step))
        losses.total.backward()
        return {"edit": f"{losses.edit:.2f}", "kl": f"{losses.locality:.3f}"}

    def losses_of(self, rows: Rows, lower: LowerStates | None) -> Losses:
        settings = self._manifest.training
        weights = {"edit_weight": settings.edit_weight, "locality_weight": settings.locality_weight}
        return losses_after(self.model, self._network, rows, lower=lower, **weights)

    def validation(self, step: int) -> Validation:
        """The mean losses on the held-out edits."""
        edit, locality = self.held_out()
        settings = self._manifest.training
        total = settings.edit_weight * edit + settings.locality_weight * locality
        return Validation(step=step, edit=edit, locality=locality, total=total)

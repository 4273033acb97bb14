"""The training of KE (De Cao et al., EMNLP 2021, arXiv 2104.08164, Eq. 2): edit success under a bound on side effects.

    minimise L_e  subject to  KL(unedited || edited) <= margin

L_e is -log p of the new target after the edit, in its own prompt and a paraphrase. The KL is computed on unrelated
prompts. A Lagrange multiplier enforces the bound; it rises while the bound is exceeded:

    L = L_e + multiplier (KL - margin)
    multiplier <- max(0, multiplier + rate * excess),    excess = (KL - margin) / margin, from -1 to 1

Examples, batches and the losses of models that were each edited once come from MEND (`kg_edit.zoo.mend`). A run
that was killed continues to the same result, byte for byte (`kg_edit.zoo.trained`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.models.language_model import LanguageModel
from kg_edit.zoo.ke.network import FORMAT, KeManifest, KeTraining, embedding_width
from kg_edit.zoo.mend.examples import BatchOrder, Rows
from kg_edit.zoo.mend.network import Validation
from kg_edit.zoo.mend.training import EditorRun, Losses, losses_after, train_editor
from kg_edit.zoo.trained.lower_states import LowerStates
from kg_edit.zoo.trained.training import CHECKPOINT_SECONDS, Progress, State

_EXCESS = 10.0  # weight of the excess in the validation
_LEAST = 1e-9  # of the margin by which the excess is divided


def train(
    model: LanguageModel,
    edits: Sequence[Edit | BenchmarkRecord],
    settings: KeTraining,
    out: Path,
    *,
    progress: bool = True,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> KeManifest:
    """Train a network for ``model``, and write the one with the best loss on the held-out edits to ``out``.

    The arguments are those of `kg_edit.zoo.mend.training.train`.
    """
    return train_editor(
        model,
        edits,
        settings,
        out,
        kind=KeManifest,
        run=KeRun,
        format=FORMAT,
        progress=progress,
        checkpoint_seconds=checkpoint_seconds,
        fields={"width": embedding_width(model)},
    )


class KeRun(EditorRun):
    """A training run of KE."""

    name = "ke"

    def __init__(self, model: LanguageModel, order: BatchOrder, manifest: KeManifest, path: Path) -> None:
        self._manifest = manifest
        self._network = manifest.build_network().to(model.device)
        optimizer = torch.optim.Adam(self._network.parameters(), lr=manifest.training.learning_rate)
        state = State(format=FORMAT, network=self._network, optimizer=optimizer, progress=Progress[Validation]())
        super().__init__(model, order, tuple(manifest.shapes), state, path)

    def backward(self, step: int) -> Mapping[str, str]:
        """Backpropagate the Lagrangian of the step's rows, then update the multiplier; return losses to display."""
        losses = self.losses(self.order.rows(step))
        training = self._manifest.training
        beyond = losses.locality - training.margin  # KL - margin
        (losses.edit + self._network.multiplier * beyond).backward()
        # The step of the multiplier is limited, because KL may be a thousand margins: the published program normalises
        # it by RMSprop.
        excess = float((beyond.detach() / max(training.margin, _LEAST)).clamp(-1.0, 1.0))
        with torch.no_grad():
            self._network.multiplier.add_(training.multiplier_rate * excess)
            self._network.multiplier.clamp_(min=0.0)
        return {"edit": f"{losses.edit:.2f}", "kl": f"{losses.locality:.3f}"}

    def validation(self, step: int) -> Validation:
        """Return the mean losses on the held-out edits; the total is L_e plus ten times the excess over the bound."""
        edit, locality = self.held_out()
        total = edit + _EXCESS * max(0.0, locality - self._manifest.training.margin)
        return Validation(step=step, edit=edit, locality=locality, total=total)

    def losses_of(self, rows: Rows, lower: LowerStates | None) -> Losses:
        """Return the losses after the edits of ``rows``, each of which the network reads."""
        network = self._network.condition_on(self.model, rows.edits)
        return losses_after(self.model, network, rows, edit_weight=1.0, locality_weight=1.0, lower=lower)

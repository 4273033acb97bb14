"""The training of MEND's editor network: Adam on the losses of models that were each edited once (MEND, Eq. 4).

    L = c_edit L_e + c_loc L_loc

L_e is -log p of the new target after the edit, in its own prompt and in paraphrases; with ``questions`` also of the
answers to questions about what follows from the edit (PropMEND). L_loc is KL(unedited || edited) on unrelated prompts.
`losses_after` computes both. A run that was killed continues from a checkpoint to the same result, bit for bit
(`kg_edit.methods.trained`). `kg_edit.methods.mend.method` makes edits with the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.errors import ModelError
from kg_edit.methods.mend.examples import BatchOrder, Rows
from kg_edit.methods.mend.gradients import (
    Changes,
    EditedPasses,
    Shape,
    edit_factors,
    felt_factors,
    mlp_weights,
    nll,
    weight_shapes,
)
from kg_edit.methods.mend.network import Pairs
from kg_edit.methods.mend.store import FORMAT, Manifest, MendTraining, Validation
from kg_edit.methods.trained.training import CHECKPOINT_SECONDS, Progress, State, TrainingRun, keep_trained
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.run_folder import digest

__all__ = ["EditorNetwork", "Losses", "losses_after", "train"]


def train(
    model: LanguageModel,
    edits: Sequence[Edit],
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


def _manifest(model: LanguageModel, edits: Sequence[Edit], settings: MendTraining) -> Manifest:
    return Manifest(
        model=model.fingerprint,
        model_name=model.name,
        shapes=weight_shapes(model, settings.weights or mlp_weights(model, settings.blocks)),
        training=settings,
        edits=digest([edit.model_dump(mode="json", exclude_defaults=True) for edit in edits]),
    )


class _Run(TrainingRun[Validation]):
    """A training run of MEND."""

    name = "mend"
    state: State[Validation]

    def __init__(self, model: LanguageModel, order: BatchOrder, manifest: Manifest, path: Path) -> None:
        self._model, self._order, self._manifest = model, order, manifest
        settings = manifest.training
        self._network = manifest.network().to(model.device)
        groups = [
            {"params": list(self._network.layers.parameters()), "lr": settings.learning_rate},
            {"params": [self._network.log_rates], "lr": settings.rate_learning_rate},
        ]
        state = State(
            format=FORMAT,
            network=self._network,
            optimizer=torch.optim.Adam(groups),
            progress=Progress[Validation](),
        )
        super().__init__(state, settings, path)

    def learned_from(self) -> Mapping[str, int]:
        return {"examples": len(self._order.examples)}

    def begin(self) -> None:
        """Compute the mean and the deviation of the factors."""
        names = list(self._manifest.shapes)
        self._network.normalise_by(felt_factors(self._model, self._order.for_normalising(), names))

    def backward(self, step: int) -> Mapping[str, str]:
        """Compute the losses of the step's rows and their gradient; return the losses to display."""
        losses = self._losses(self._order.rows(step))
        losses.total.backward()
        return {"edit": f"{losses.edit:.2f}", "kl": f"{losses.locality:.3f}"}

    def _losses(self, rows: Rows) -> Losses:
        settings = self._manifest.training
        losses = losses_after(
            self._model,
            self._network,
            rows,
            edit_weight=settings.edit_weight,
            locality_weight=settings.locality_weight,
        )
        if not torch.isfinite(losses.total):
            step = self.state.progress.step
            raise ModelError(f"after {step} steps the loss is not finite; train with a lower learning_rate or edit_lr")
        return losses

    def validation(self, step: int) -> Validation:
        """The mean losses on the held-out edits."""
        settings, sums, count = self._manifest.training, torch.zeros(2, dtype=torch.float64), 0
        for rows in self._order.validation():
            losses, size = self._losses(rows), len(rows.edits)
            sums += size * torch.stack([losses.edit, losses.locality]).detach().cpu()
            count += size
        edit, locality = (sums / count).tolist()
        total = settings.edit_weight * edit + settings.locality_weight * locality
        return Validation(step=step, edit=edit, locality=locality, total=total)


@dataclass(frozen=True, eq=False, kw_only=True)
class Losses:
    """The losses after the edits.

    ``edit`` is -log p of the new target, in the edit's own prompt and in paraphrases, and of the questions' answers;
    ``locality`` is the KL; ``total`` is their weighted sum.
    """

    edit: Tensor
    locality: Tensor
    total: Tensor


class EditorNetwork(Protocol):
    """A network that turns gradients into changes: `MendNetwork`, or that of another method."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes (out, in) of the edited weights, by name."""

    def changes(self, factors: Pairs) -> Changes:
        """The factors (left [edits, rank, out], right [edits, rank, in]) of each weight's change."""


def losses_after(
    model: LanguageModel, network: EditorNetwork, rows: Rows, *, edit_weight: float, locality_weight: float
) -> Losses:
    """The losses of models that were each edited once, as a function of the network.

    First all rows run through the model. The network turns the edits' gradients into changes. Then the rows run again
    through the blocks from the first changed one on, each row with the change of its own edit.
    """
    own, elsewhere = range(len(rows.edits)), range(len(rows.edits), len(rows.edits) + len(rows.unrelated))
    passes = EditedPasses(model, [*rows.edits, *rows.unrelated], list(network.shapes))
    with torch.no_grad():
        clean = passes.logits(elsewhere).log_softmax(-1)
    changes = network.changes(edit_factors(passes, nll(passes, own), rows=len(own)))
    logits = passes.logits([*own, *elsewhere], changes, torch.tensor([*own, *own]))
    asked = len(logits) - len(clean)
    _, shares = passes.targets(elsewhere)
    divergence = (clean.exp() * (clean - logits[asked:].log_softmax(-1))).sum(-1)
    locality = (divergence * shares).sum()
    edit = _edit_loss(nll(passes, own, logits[:asked]), model, rows, changes)
    return Losses(edit=edit, locality=locality, total=edit_weight * edit + locality_weight * locality)


def _edit_loss(own: Tensor, model: LanguageModel, rows: Rows, changes: Changes) -> Tensor:
    """L_e: the mean -log p over the edits' own rows, if they are learned, and the further prompts."""
    others, count = len(rows.further), len(rows.edits) if rows.learned else 0
    if not others:
        return own
    return (count * own + others * _nll_elsewhere(model, rows, changes)) / (count + others)


def _nll_elsewhere(model: LanguageModel, rows: Rows, changes: Changes) -> Tensor:
    """The mean -log p for the further prompts; they run in a separate pass, because they are longer."""
    owners, prompts = zip(*rows.further, strict=True)
    with torch.no_grad():
        passes = EditedPasses(model, prompts, list(changes))
    places = range(len(prompts))
    return nll(passes, places, passes.logits(places, changes, torch.tensor(owners)))

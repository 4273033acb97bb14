"""Training an editor: Adam on the losses of single edits; killed, it goes on to the same result."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from kg_edit.edits.edit import Edit
from kg_edit.errors import ModelError
from kg_edit.mend.checkpoint import CHECKPOINT, State
from kg_edit.mend.course import Course
from kg_edit.mend.gradients import felt_factors
from kg_edit.mend.loss import Losses, losses_after
from kg_edit.mend.settings import MendTraining
from kg_edit.mend.weights import mlp_weights, weight_shapes
from kg_edit.methods.mend.examples import Rows
from kg_edit.methods.mend.store import NETWORK, Manifest, Validation, read_manifest, write_network
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.run_folder import claim, digest
from kg_edit.value.optimise import untouched

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 60.0
"""How much work a kill may cost, about; a step is finished first."""


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

    The best network on edits held out is what is kept. Called again, it goes on where it was killed, and does nothing
    where it was finished. Leaves the model as it was.

    Raises:
        ConfigError: there are too few edits, or a weight can't be edited.
        ModelError: a loss is not finite, or the file of a run that was killed is damaged.
        OutputError: ``out`` holds another run, or can't be written.
    """
    manifest = _manifest(model, edits, settings)
    claim(out, _identity(manifest))
    if (out / NETWORK).is_file():
        return read_manifest(out / NETWORK)
    with untouched(model):
        run = _Run(model, Course.of(model, edits, settings), manifest, out / CHECKPOINT)
        run.train(progress=progress, checkpoint_seconds=checkpoint_seconds)
        return run.finish(out / NETWORK)


def _manifest(model: LanguageModel, edits: Sequence[Edit], settings: MendTraining) -> Manifest:
    return Manifest(
        model=model.fingerprint,
        model_name=model.name,
        shapes=weight_shapes(model, settings.weights or mlp_weights(model, settings.blocks)),
        training=settings,
        edits=digest([edit.model_dump(mode="json", exclude_defaults=True) for edit in edits]),
    )


def _identity(manifest: Manifest) -> dict[str, object]:
    """All that decides the result, for ``run.json``."""
    said = manifest.model_dump(mode="json", include={"format", "training", "edits"})
    return {**said, "command": "mend train", "model": {"name": manifest.model_name, "fingerprint": manifest.model}}


class _Run:
    """A training under way; ``path`` is where it is kept between two steps."""

    def __init__(self, model: LanguageModel, course: Course, manifest: Manifest, path: Path) -> None:
        self._model, self._course, self._manifest, self._path = model, course, manifest, path
        self._settings = manifest.training
        network = manifest.network().to(model.device)
        groups = [
            {"params": list(network.layers.parameters()), "lr": self._settings.learning_rate},
            {"params": [network.log_rates], "lr": self._settings.rate_learning_rate},
        ]
        self._state = State(network=network, optimizer=torch.optim.Adam(groups))

    def train(self, *, progress: bool, checkpoint_seconds: float) -> None:
        """Go on from the checkpoint, or from the start, to the last step."""
        self._start()
        state, saved = self._state, time.monotonic()
        with tqdm(
            total=self._settings.steps, initial=state.progress.step, desc="mend", disable=None if progress else True
        ) as bar:
            while not self._done():
                losses = self._step(self._course.rows(state.progress.step))
                best = state.progress.best.total
                bar.set_postfix(edit=f"{losses.edit:.2f}", kl=f"{losses.locality:.3f}", best=f"{best:.3f}")
                bar.update()
                if time.monotonic() - saved >= checkpoint_seconds:
                    state.save(self._path)
                    saved = time.monotonic()

    def finish(self, path: Path) -> Manifest:
        """Write the best network, then forget the run."""
        state = self._state
        manifest = self._manifest.model_copy(
            update={
                "steps": state.progress.best.step,
                "examples": len(self._course.examples),
                "validations": state.progress.validations,
            }
        )
        write_network(path, state.best, manifest)
        self._path.unlink(missing_ok=True)
        return manifest

    def _start(self) -> None:
        if self._path.is_file():
            self._state.restore(self._path)
            log.info("going on with %s after %d steps", self._path, self._state.progress.step)
            return
        names = list(self._manifest.shapes)
        self._state.network.normalise_by(felt_factors(self._model, self._course.for_normalising(), names))
        self._validate()

    def _done(self) -> bool:
        """Whether all steps are made, or the last validations brought nothing better."""
        progress = self._state.progress
        waited = len(progress.validations) - 1 - progress.validations.index(progress.best)
        return progress.step >= self._settings.steps or waited >= self._settings.patience

    def _step(self, rows: Rows) -> Losses:
        """One step of Adam, and a validation where one is due."""
        state = self._state
        losses = self._losses(rows)
        state.optimizer.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), self._settings.clip)
        state.optimizer.step()
        state.progress = state.progress.model_copy(update={"step": state.progress.step + 1})
        if state.progress.step % self._settings.validate_every == 0 or state.progress.step == self._settings.steps:
            self._validate()
        return losses

    def _losses(self, rows: Rows) -> Losses:
        losses = losses_after(
            self._model,
            self._state.network,
            rows,
            edit_weight=self._settings.edit_weight,
            locality_weight=self._settings.locality_weight,
        )
        if not torch.isfinite(losses.total):
            step = self._state.progress.step
            raise ModelError(f"after {step} steps the loss is not finite; train with a lower learning_rate or edit_lr")
        return losses

    def _validate(self) -> None:
        """The mean losses on the edits held out; the network is kept if it is the best so far."""
        state, sums, count = self._state, torch.zeros(2, dtype=torch.float64), 0
        for rows in self._course.validation():
            losses, size = self._losses(rows), len(rows.edits)
            sums += size * torch.stack([losses.edit, losses.locality]).detach().cpu()
            count += size
        edit, locality = (sums / count).tolist()
        total = self._settings.edit_weight * edit + self._settings.locality_weight * locality
        found = Validation(step=state.progress.step, edit=edit, locality=locality, total=total)
        log.info("after %d steps on edits held out: -log p %.3f, kl %.4f", found.step, edit, locality)
        state.progress = state.progress.plus(found)
        if state.progress.best == found:
            state.keep_best()

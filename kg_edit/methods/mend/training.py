"""Training MEND's editor network: Adam on the losses of models that were each edited once (MEND, Eq. 4).

    L = c_edit L_e + c_loc L_loc

L_e is -log p of the new target after the edit, in its own prompt and in others that mean the same; L_loc is
KL(unedited || edited) on unrelated prompts. `losses_after` computes them; a run that was killed goes on to the same
result, to the bit, from a checkpoint (`State`). `kg_edit.methods.mend.method` edits with the network.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor
from tqdm import tqdm

from kg_edit.edits.edit import Edit
from kg_edit.errors import ModelError
from kg_edit.methods.mend.examples import BatchOrder, Rows
from kg_edit.methods.mend.gradients import (
    Changes,
    EditedPasses,
    edit_factors,
    felt_factors,
    mlp_weights,
    nll,
    weight_shapes,
)
from kg_edit.methods.mend.network import MendNetwork
from kg_edit.methods.mend.store import (
    NETWORK,
    Manifest,
    MendTraining,
    Validation,
    damaged,
    load_into,
    read_manifest,
    read_said,
    read_tensors,
    write_network,
)
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.run_folder import claim, digest
from kg_edit.value.optimise import untouched

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 60.0
"""How much work a kill may cost, about; a step is finished first."""

CHECKPOINT = "checkpoint.safetensors"
_SLOTS = ("step", "exp_avg", "exp_avg_sq")


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
        run = _Run(model, BatchOrder.of(model, edits, settings), manifest, out / CHECKPOINT)
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

    def __init__(self, model: LanguageModel, order: BatchOrder, manifest: Manifest, path: Path) -> None:
        self._model, self._order, self._manifest, self._path = model, order, manifest, path
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
                losses = self._step(self._order.rows(state.progress.step))
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
                "examples": len(self._order.examples),
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
        self._state.network.normalise_by(felt_factors(self._model, self._order.for_normalising(), names))
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
        for rows in self._order.validation():
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


@dataclass(frozen=True, eq=False, kw_only=True)
class Losses:
    """``edit``: -log p of the new target after the edit, in its own prompt and in others; ``locality``: the KL."""

    edit: Tensor
    locality: Tensor
    total: Tensor


def losses_after(
    model: LanguageModel, network: MendNetwork, rows: Rows, *, edit_weight: float, locality_weight: float
) -> Losses:
    """The losses of models that were each edited once, as a function of the network.

    All rows go through the model once; the network turns the edits' gradients into changes; the rows go again through
    the blocks that these change, each row with its own edit's change.
    """
    own, elsewhere = range(len(rows.edits)), range(len(rows.edits), len(rows.edits) + len(rows.unrelated))
    passes = EditedPasses(model, [*rows.edits, *rows.unrelated], list(network.shapes))
    with torch.no_grad():
        clean = passes.logits(elsewhere).log_softmax(-1)
    changes = network.changes(edit_factors(passes, nll(passes, own), rows=len(own)))
    logits = passes.logits([*own, *elsewhere], changes, torch.tensor([*own, *own]))
    asked = len(logits) - len(clean)
    edit, (_, shares) = nll(passes, own, logits[:asked]), passes.targets(elsewhere)
    divergence = (clean.exp() * (clean - logits[asked:].log_softmax(-1))).sum(-1)
    locality = (divergence * shares).sum()
    if rows.equivalents:
        others = len(rows.equivalents)
        edit = (len(own) * edit + others * _nll_elsewhere(model, rows, changes)) / (len(own) + others)
    return Losses(edit=edit, locality=locality, total=edit_weight * edit + locality_weight * locality)


def _nll_elsewhere(model: LanguageModel, rows: Rows, changes: Changes) -> Tensor:
    """The mean -log p after the equivalent prompts, which are longer than the others, so they run alone."""
    owners, prompts = zip(*rows.equivalents, strict=True)
    with torch.no_grad():
        passes = EditedPasses(model, prompts, list(changes))
    places = range(len(prompts))
    return nll(passes, places, passes.logits(places, changes, torch.tensor(owners)))


class Progress(BaseModel):
    """How far a run is. The order of edits follows from seed and step, so no random state is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = 0
    validations: tuple[Validation, ...] = ()

    @property
    def best(self) -> Validation:
        """The validation with the lowest loss, the first one of equals."""
        return min(self.validations, key=lambda found: found.total)

    def plus(self, found: Validation) -> Progress:
        """The progress with one more validation."""
        return self.model_copy(update={"validations": (*self.validations, found)})


@dataclass(eq=False, kw_only=True)
class State:
    """A run between two steps: the network as it is and as it was at its best, Adam's moments, and how far it is."""

    network: MendNetwork
    optimizer: torch.optim.Adam
    progress: Progress = field(default_factory=Progress)
    best: dict[str, Tensor] = field(default_factory=dict)

    def keep_best(self) -> None:
        """Keep a copy of the network as it is now, as the best so far."""
        self.best = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}

    def save(self, path: Path) -> None:
        """Write all of it, atomically.

        Raises:
            OutputError: the file can't be written.
        """
        tensors = {f"now/{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        for name, parameter in self.network.named_parameters():
            for slot, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"adam/{slot}/{name}"] = value
        write_network(path, tensors, self.progress)

    def restore(self, path: Path) -> None:
        """Take over what `save` wrote.

        Raises:
            ModelError: the file is damaged, or of another network.
        """
        tensors = read_tensors(path)
        try:
            self.progress = Progress.model_validate_json(read_said(path))
        except ValidationError as error:
            raise damaged(path, error) from error
        load_into(self.network, _under("now/", tensors), path)
        device = self.network.log_rates.device
        self.best = {name: tensor.to(device) for name, tensor in _under("best/", tensors).items()}
        for name, parameter in self.network.named_parameters():
            slots = {slot: tensors.get(f"adam/{slot}/{name}") for slot in _SLOTS}
            if None not in slots.values():
                self.optimizer.state[parameter] = _on(slots, device)


def _on(slots: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
    """Adam's moments, where the network is; its step counter stays on the CPU, as Adam wants it."""
    return {slot: value if slot == "step" else value.to(device) for slot, value in slots.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

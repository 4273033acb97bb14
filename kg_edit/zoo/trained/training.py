"""The training loop for a method's own network: steps, checkpoints, validations, and the choice of the best network.

A `TrainingRun` may be killed at any time, and then continues to the same result, bit for bit. This works because the
seed and the number of a step determine its examples (`Epochs`), and a checkpoint has everything else (`State`).
"""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Generic, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn

from kg_common.progress import Bar
from kg_edit.errors import ModelError
from kg_edit.methods.config import MethodConfig
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.locks import folder_lock
from kg_edit.storage.run_folder import check_folder, claim
from kg_edit.storage.setting_fields import Seed
from kg_edit.zoo.trained.files import NETWORK, Manifest, NetworkFormat

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
STATES = "states.safetensors"  # of the lower blocks, where a method stores them
CHECKPOINT_SECONDS = 60.0
"""Seconds between two checkpoints, which is about the work that a kill may lose; a step is always finished first."""

_IDENTITY = {"training", "edits"}  # manifest fields that determine the result
_SLOTS = ("step", "exp_avg", "exp_avg_sq")
Example = TypeVar("Example")


class Validation(BaseModel):
    """The mean loss on the held-out examples, after ``step`` steps; a method adds the parts of its loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    total: float

    def __str__(self) -> str:
        """Return the step, and each loss that was measured, with three decimals."""
        losses = ", ".join(f"{name} {value:.3f}" for name, value in self if name != "step")
        return f"step {self.step}: {losses}"


Measured = TypeVar("Measured", bound=Validation)


class TrainingConfig(MethodConfig):
    """Settings that every training has."""

    steps: PositiveInt = Field(300, description="maximum number of optimiser steps")
    learning_rate: float = Field(1e-3, gt=0, description="learning rate of the network")
    clip: float = Field(100.0, gt=0, description="maximum norm of the gradient")
    validation: PositiveInt = Field(
        32, description="number of held-out edits for validation, which chooses the best network"
    )
    validate_every: PositiveInt = Field(25, description="steps between two validations")
    patience: PositiveInt = Field(6, description="training stops after this many validations without a better one")
    seed: Seed = Field(0, description="random seed of the network, the order of the edits, and the sampled texts")


class Progress(BaseModel, Generic[Measured]):
    """The progress of a run. It has no random state, because the seed and the step determine the order of examples."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = 0
    validations: tuple[Measured, ...] = ()

    @property
    def best(self) -> Measured:
        """The validation with the lowest loss; of equal ones, the first."""
        return min(self.validations, key=lambda validation: validation.total)

    @property
    def waited(self) -> int:
        """The number of validations since the best one."""
        return len(self.validations) - 1 - self.validations.index(self.best)


class DivergedError(ModelError):
    """The loss of a step or of a validation is not finite."""


@dataclass(eq=False, kw_only=True)
class State(Generic[Measured]):
    """The state of a run between two steps: the present and the best network, Adam's moments, and the progress."""

    format: NetworkFormat
    network: nn.Module
    optimizer: torch.optim.Optimizer
    progress: Progress[Measured]
    best: dict[str, Tensor] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the whole state to a file, atomically."""
        tensors = {f"now/{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        for name, parameter in self.network.named_parameters():
            for slot, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"adam/{slot}/{name}"] = value
        self.format.write(path, tensors, self.progress)

    def restore(self, path: Path) -> None:
        """Load the state that `save` wrote."""
        tensors = self.format.read_tensors(path)
        self.progress = self.format.read_manifest(path, type(self.progress))
        parts: dict[str, dict[str, Tensor]] = {"now": {}, "best": {}, "adam": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition("/")
            parts.setdefault(part, {})[rest] = tensor
        self.format.fill_network(self.network, parts["now"], path)
        first_parameter, *_ = self.network.parameters()
        device = first_parameter.device
        self.best = {name: tensor.to(device) for name, tensor in parts["best"].items()}
        for name, parameter in self.network.named_parameters():
            adam = parts["adam"]
            if all(f"{slot}/{name}" in adam for slot in _SLOTS):
                self.optimizer.state[parameter] = {
                    "step": adam[f"step/{name}"],  # Adam wants the step counter on the CPU
                    "exp_avg": adam[f"exp_avg/{name}"].to(device),
                    "exp_avg_sq": adam[f"exp_avg_sq/{name}"].to(device),
                }


class TrainingRun(ABC, Generic[Measured]):
    """Base class of a training run; ``path`` is the file of its checkpoint, ``examples`` the number of training edits.

    Subclasses define the loss of a step.
    """

    name: ClassVar[str]
    remedy: ClassVar[str] = "a lower learning_rate"  # what helps if the loss is not finite

    def __init__(self, state: State[Measured], settings: TrainingConfig, path: Path, *, examples: int) -> None:
        self.state = state
        self.settings = settings
        self._path = path
        self._examples = examples

    @abstractmethod
    def backward(self, step: int) -> Mapping[str, str]:
        """Compute the gradient of the step's loss for the network's parameters; return texts for the progress bar."""

    @abstractmethod
    def validation(self, step: int) -> Measured:
        """Return the loss on the held-out examples, after ``step`` steps."""

    def begin(self) -> None:
        """Prepare a new run, before its first validation; not called when a run continues."""

    def prepare(self, *, progress: bool) -> None:
        """Compute what no step changes; called before a new run begins, and before an interrupted run continues."""

    def train(self, *, progress: bool, checkpoint_seconds: float) -> None:
        """Train from the checkpoint, or from the start, to the last step or until nothing improves.

        If the loss is no longer finite, the training ends there, provided that some step improved the network.
        """
        self.prepare(progress=progress)
        state = self.state
        settings = self.settings
        if self._path.is_file():
            state.restore(self._path)
            log.info("continuing %s after %d steps", self._path, state.progress.step)
        else:
            self.begin()
            self._validate()
        saved = time.monotonic()
        done = state.progress.step
        with Bar(title=self.name, unit="step", total=settings.steps, done=done, shown=progress) as bar:
            while state.progress.step < settings.steps and state.progress.waited < settings.patience:
                # The seed and the number of the step determine its examples, so that a resumed run draws the same.
                try:
                    shown = self._take_step()
                except DivergedError as error:
                    if not state.progress.best.step:
                        raise
                    log.warning("%s; the result is the network of step %d", error, state.progress.best.step)
                    return
                bar.set_postfix({**shown, "best": f"{state.progress.best.total:.3f}"})
                bar.update()
                if time.monotonic() - saved >= checkpoint_seconds:
                    state.save(self._path)
                    saved = time.monotonic()

    def _take_step(self) -> Mapping[str, str]:
        """Take one step, and validate where one is due; return what the progress bar shows."""
        state = self.state
        state.optimizer.zero_grad()
        shown = self.backward(state.progress.step)
        torch.nn.utils.clip_grad_norm_(state.network.parameters(), self.settings.clip)
        state.optimizer.step()
        step = state.progress.step + 1
        state.progress = state.progress.model_copy(update={"step": step})
        if step % self.settings.validate_every == 0 or step == self.settings.steps:
            self._validate()
        return shown

    def check_loss(self, loss: float) -> None:
        """Check that a loss is finite."""
        if not math.isfinite(loss):
            step = self.state.progress.step
            raise DivergedError(f"after {step} steps the loss is not finite; train with {self.remedy}")

    def _validate(self) -> None:
        """Validate the network, and keep a copy of it if it is the best one so far."""
        state = self.state
        validation = self.validation(state.progress.step)
        self.check_loss(validation.total)
        validations = (*state.progress.validations, validation)
        state.progress = state.progress.model_copy(update={"validations": validations})
        if state.progress.best != validation:
            log.info("on held-out examples after %s", validation)
            return
        log.info("on held-out examples after %s (best so far)", validation)
        state.best = {name: tensor.detach().clone() for name, tensor in state.network.state_dict().items()}

    def finish(self, path: Path, manifest: Manifest) -> Manifest:
        """Complete the manifest, write it with the best network, and delete the checkpoint."""
        progress = self.state.progress
        # The last network may be worse than the best one, and is not stored.
        results = {"steps": progress.best.step, "validations": progress.validations, "examples": self._examples}
        completed = manifest.model_copy(update=results)
        self.state.format.write(path, self.state.best, completed)
        self._path.unlink(missing_ok=True)
        return completed


def run_training(
    model: LanguageModel,
    manifest: Manifest,
    out: Path,
    start: Callable[[Path], TrainingRun[Any]],
    *,
    format: NetworkFormat,
    progress: bool,
    checkpoint_seconds: float,
) -> Manifest:
    """Train a network and write the best one to the folder ``out``; ``model`` is unchanged.

    Called again, an interrupted run continues, and a finished run does nothing.

    Args:
        model: the language model.
        manifest: the network's model and training settings, before it is trained.
        out: the folder.
        start: makes the run, given the path of its checkpoint.
        format: the format of the network's file.
        progress: whether to show a progress bar.
        checkpoint_seconds: seconds between two checkpoints.

    Returns:
        The manifest with the results of the training.
    """
    # What a run that continues this one must have in common with it; in another precision the losses differ.
    dtype = str(model.model.dtype).removeprefix("torch.")
    model_identity = {"name": manifest.model_name, "fingerprint": manifest.model, "dtype": dtype}
    identity = manifest.model_dump(mode="json", include=_IDENTITY)
    settings = {**identity, "command": format.command.removeprefix("kg-edit "), "model": model_identity}
    check_folder(out, settings)
    if (out / NETWORK).is_file():
        for scratch in (CHECKPOINT, STATES):  # of a run that was killed right after it had written its network
            (out / scratch).unlink(missing_ok=True)
        return format.read_manifest(out / NETWORK, type(manifest))
    with keep_untouched(model):
        run = start(out / CHECKPOINT)  # raises before the folder is made, if there are too few examples
        claim(out, settings)
        with folder_lock(out):
            run.train(progress=progress, checkpoint_seconds=checkpoint_seconds)
            return run.finish(out / NETWORK, manifest)


class Epochs(Generic[Example]):
    """The examples of each step: batch by batch through all examples, again and again, each time in another order.

    Examples that don't fill a batch are skipped in this epoch.
    """

    def __init__(self, examples: Sequence[Example], *, batch: int, seed: int) -> None:
        self._examples = examples
        self._batch = batch
        self._seed = seed
        self._number = -1  # of the present epoch
        self._order = list[Example]()

    def examples(self, step: int) -> list[Example]:
        """Return the examples of a step (from 0). They are shuffled at the first step of an epoch alone."""
        steps_per_epoch = len(self._examples) // self._batch
        number, step_of_epoch = divmod(step, steps_per_epoch)
        if number != self._number:
            self._number = number
            self._order = shuffled(self._examples, f"pass {number} {self._seed}")
        start = step_of_epoch * self._batch
        return self._order[start : start + self._batch]


def shuffled(examples: Sequence[Example], seed: str) -> list[Example]:
    """Return the examples in random order, determined by the seed."""
    order = list(examples)
    Random(seed).shuffle(order)  # noqa: S311 - no secret
    return order

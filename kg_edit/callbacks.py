"""Callbacks that receive the losses of a descent while it runs, for example to log them to TensorBoard.

`EditingMethod.edit(…, callbacks=…)` registers callbacks; a descent reports each step with `report_losses`. `LossFile`
writes JSON lines, which `read_losses` reads. `TensorBoard` and `WeightsAndBiases` need their packages installed.
`open_callback` makes a callback from the text of the option ``--log``, and `open_callbacks` closes several after use.
A callback never changes a result.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from kg_common.progress import duration
from kg_edit.errors import ConfigError, unknown_name
from kg_edit.storage.atomic import append_lines, read_lines

# The callbacks that get the losses of the edits that are being made, and the ids of these edits. `send_losses` sets
# them around a batch, so that the descents inside can report losses without a parameter for callbacks.
_Receivers = tuple[tuple["Callback", ...], tuple[str, ...]]
_RECEIVERS: ContextVar[_Receivers] = ContextVar("receivers of losses", default=((), ()))


class Callback:
    """Base class: it ignores every event. A subclass overrides the events it needs."""

    def on_terms(self, edit: str, step: int, terms: Mapping[str, float]) -> None:
        """Called before `on_step` with the terms of the loss by name (nll, kl), if the method reports them."""

    def on_step(self, edit: str, step: int, loss: float) -> None:
        """Called with the loss of an edit at each step of its descent; steps count from 0.

        ``edit`` is the edit's id; for one descent over a batch it is ``first..last``.
        """

    def close(self) -> None:
        """Called when all edits are made."""


class LossLines(Callback):
    """Collects a JSON line ``{"edit", "step", "loss", …}`` for every step, with the terms of the loss if reported."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._terms: dict[str, float] = {}

    def on_terms(self, edit: str, step: int, terms: Mapping[str, float]) -> None:
        """Keep the terms until the line of this step is written."""
        self._terms = {name: round(value, 6) for name, value in terms.items()}

    def on_step(self, edit: str, step: int, loss: float) -> None:
        """Append a line for this step."""
        self.lines.append(json.dumps({"edit": edit, "step": step, "loss": round(loss, 6), **self._terms}))
        self._terms = {}

    def append_to(self, path: Path) -> None:
        """Append the lines collected since the last call to a file."""
        if self.lines:
            append_lines(path, self.lines)
            self.lines = []


class StepNotes(Callback):
    """Passes each step in words to a progress bar: one descent over a batch may take minutes."""

    def __init__(self, note: Callable[[str], object], *, most: tuple[int, int] = (0, 0)) -> None:
        """Pass the words to ``note``.

        Args:
            note: is called with the words of each step.
            most: the largest number of steps, and of further steps, which follow for edits whose new object the model
                does not predict after the first ones. (0, 0): unknown, so the words have no number and no time.
        """
        self._note = note
        self._steps, self._further = most
        self._began = time.monotonic()

    def on_step(self, edit: str, step: int, loss: float) -> None:
        """Pass the step, its loss and the time that is left at most to the bar."""
        if step == 0:  # of a new descent
            self._began = time.monotonic()
        words = f"step {step + 1}"
        remaining = self._steps + self._further - step - 1  # at most; negative if the numbers are unknown
        if remaining >= 0:
            words += f" of {self._steps}"
            if self._further:
                words += f" and {self._further} further ones"
        words += f", loss {loss:.2f}"
        if step > 0 and remaining > 0:
            left = remaining * (time.monotonic() - self._began) / step
            words += f", at most {duration(left)} left in this descent"
        self._note(words)


class LossFile(LossLines):
    """Appends the line of each step to a file immediately."""

    def __init__(self, path: Path) -> None:
        """Make the file, so that a path that can't be written is refused before the work."""
        super().__init__()
        self.path = path
        append_lines(path, ())

    def on_step(self, edit: str, step: int, loss: float) -> None:
        """Append a line for this step to the file."""
        super().on_step(edit, step, loss)
        self.append_to(self.path)


class TensorBoard(Callback):
    """Logs one curve ``loss/ID`` per edit to a TensorBoard folder (pip install tensorboard)."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _not_installed("tensorboard") from error
        self._writer: Any = SummaryWriter(str(folder))

    def on_step(self, edit: str, step: int, loss: float) -> None:
        """Add a point to the edit's curve."""
        self._writer.add_scalar(f"loss/{edit}", loss, step)

    def close(self) -> None:
        """Write the remaining points and close the log."""
        self._writer.close()


class WeightsAndBiases(Callback):
    """Logs one curve ``loss/ID`` per edit to a run of a Weights & Biases project (pip install wandb)."""

    def __init__(self, project: str) -> None:
        try:
            import wandb
        except ImportError as error:
            raise _not_installed("wandb") from error
        self._run: Any = wandb.init(project=project)

    def on_step(self, edit: str, step: int, loss: float) -> None:
        """Add a point to the edit's curve. The step is logged too, because each edit counts its own steps."""
        self._run.log({f"loss/{edit}": loss, f"step/{edit}": step})

    def close(self) -> None:
        """End the run."""
        self._run.finish()


KINDS = ("file", "tensorboard", "wandb")


def open_callback(text: str) -> Callback:
    """Return the callback for the text ``KIND:WHERE``: file:losses.jsonl, tensorboard:FOLDER or wandb:PROJECT."""
    kind, _, where = text.partition(":")
    if kind not in KINDS:
        raise unknown_name("kind of --log", kind, KINDS)
    if not where:
        raise ConfigError(
            f"--log {text}: no destination; expected file:losses.jsonl, tensorboard:runs/ or wandb:PROJECT"
        )
    if kind == "wandb":
        return WeightsAndBiases(where)
    if kind == "tensorboard":
        return TensorBoard(Path(where))
    return LossFile(Path(where))


@contextmanager
def open_callbacks(texts: Iterable[str]) -> Iterator[list[Callback]]:
    """Yield the callbacks for several texts; all are closed after the ``with`` block, also if it raises."""
    with ExitStack() as stack:
        opened = []
        for text in texts:
            callback = open_callback(text)
            stack.callback(callback.close)
            opened.append(callback)
        yield opened


def _not_installed(package: str) -> ConfigError:
    return ConfigError(f"--log needs the package {package}, which is not installed: pip install {package}")


@contextmanager
def send_losses(callbacks: Sequence[Callback], edits: Sequence[str]) -> Iterator[None]:
    """Within the ``with`` block, send reported losses to ``callbacks`` as those of the edits with these ids."""
    token = _RECEIVERS.set((tuple(callbacks), tuple(edits)))
    try:
        yield
    finally:
        _RECEIVERS.reset(token)


def report_losses(
    step: int,
    losses: Mapping[int, float],
    *,
    descents: int = 1,
    terms: Mapping[int, Mapping[str, float]] | None = None,
) -> None:
    """Send the losses of one step to the callbacks that `send_losses` names; without any, nothing happens.

    Args:
        step: the step of the descent, from 0.
        losses: the loss of each running descent, by its index among the descents of the batch.
        descents: the number of descents in the batch. If each edit has its own, their losses are reported for the ids
            of the edits. Otherwise the edits share the descents (1 for all edits, for example), and the losses are
            reported for ``first..last``, the ids of the first and the last edit.
        terms: the terms of each loss by name, by the same index.
    """
    callbacks, edits = _RECEIVERS.get()
    each_has_its_own = len(edits) == descents
    for callback in callbacks:
        for index, loss in losses.items():
            name = edits[index] if each_has_its_own else f"{edits[0]}..{edits[-1]}"
            if terms is not None:
                callback.on_terms(name, step, terms[index])
            callback.on_step(name, step, loss)


class LossStep(BaseModel):
    """A line of `LossLines`: the loss at one step of an edit's descent, with its terms if they were reported."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    edit: str
    step: int
    loss: float
    nll: float | None = None
    kl: float | None = None


def read_losses(path: Path) -> dict[str, tuple[LossStep, ...]]:
    """Read a file of `LossLines`: the steps of the last descent of each edit, by its id (a batch: ``first..last``).

    The result is empty if there is no such file. A descent that was interrupted and repeated is in the file twice: a
    step that does not ascend starts a new descent.
    """
    descents: dict[str, list[LossStep]] = {}
    for line in read_lines(path, LossStep):
        steps = descents.setdefault(line.edit, [])
        if steps and line.step <= steps[-1].step:
            steps.clear()
        steps.append(line)
    return {edit: tuple(steps) for edit, steps in descents.items()}

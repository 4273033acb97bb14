"""Callbacks: whoever wants to see the losses of a descent while it runs, such as TensorBoard.

`EditingMethod.edit(…, callbacks=…)` tells them of every step; descents report by `report_losses`, whoever runs them.
`LossFile` writes JSON lines, which `read_losses` reads; `TensorBoard` and `WeightsAndBiases` need their packages.
`open_callback` makes one from a text, as ``--log`` takes it. What a callback does changes no result.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from kg_edit.errors import ConfigError, unknown_name
from kg_edit.storage.atomic import append_lines, read_lines

_Watched = tuple[tuple["Callback", ...], tuple[str, ...]]
_WATCHED: ContextVar[_Watched] = ContextVar("callbacks", default=((), ()))


class Callback:
    """Does nothing at every event; a subclass overrides what it wants to see."""

    def on_terms(self, edit: str, step: int, terms: Mapping[str, float]) -> None:
        """Before `on_step`: the terms of that loss by name, such as nll and kl, where the method tells them."""

    def on_step(self, edit: str, step: int, loss: float) -> None:
        """The loss of the edit with this id (a batch's: ``first..last``) at a step of its descent, from 0."""

    def close(self) -> None:
        """All edits are made."""


class LossLines(Callback):
    """Keeps ``{"edit", "step", "loss", …}`` of every step as JSON, with the loss's terms where there are any."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._terms: dict[str, float] = {}

    def on_terms(self, edit: str, step: int, terms: Mapping[str, float]) -> None:
        """Kept until the step's line is written."""
        self._terms = {name: round(value, 6) for name, value in terms.items()}

    def on_step(self, edit: str, step: int, loss: float) -> None:
        """A line more."""
        self.lines.append(json.dumps({"edit": edit, "step": step, "loss": round(loss, 6), **self._terms}))
        self._terms = {}

    def append_to(self, path: Path) -> None:
        """Add the lines since the last call to a file.

        Raises:
            OutputError: it can't be written.
        """
        if self.lines:
            append_lines(path, self.lines)
            self.lines = []


class LossFile(LossLines):
    """Appends each step's line to a file at once."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def on_step(self, edit: str, step: int, loss: float) -> None:
        """A line more.

        Raises:
            OutputError: the file can't be written.
        """
        super().on_step(edit, step, loss)
        self.append_to(self.path)


class TensorBoard(Callback):
    """A curve an edit, ``loss/ID``, in a log folder of TensorBoard (pip install tensorboard)."""

    def __init__(self, folder: Path) -> None:
        self._writer = _package("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder))

    def on_step(self, edit: str, step: int, loss: float) -> None:
        """A point more."""
        self._writer.add_scalar(f"loss/{edit}", loss, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WeightsAndBiases(Callback):
    """A curve an edit, ``loss/ID``, in a run of a Weights & Biases project (pip install wandb)."""

    def __init__(self, project: str) -> None:
        self._run = _package("wandb", "wandb").init(project=project)

    def on_step(self, edit: str, step: int, loss: float) -> None:
        """A point more; edits have steps of their own, so the step is logged beside the loss."""
        self._run.log({f"loss/{edit}": loss, f"step/{edit}": step})

    def close(self) -> None:
        """End the run."""
        self._run.finish()


KINDS = ("file", "tensorboard", "wandb")


def open_callback(text: str) -> Callback:
    """The callback that ``KIND:WHERE`` names: file:losses.jsonl, tensorboard:FOLDER or wandb:PROJECT.

    Raises:
        UnknownNameError: there is no such kind.
        ConfigError: WHERE is missing, or the package is not installed.
    """
    kind, _, where = text.partition(":")
    if kind not in KINDS:
        raise unknown_name("kind of --log", kind, KINDS)
    if not where:
        raise ConfigError(f"--log {text}: say where, as in file:losses.jsonl, tensorboard:runs/ or wandb:PROJECT")
    if kind == "wandb":
        return WeightsAndBiases(where)
    return TensorBoard(Path(where)) if kind == "tensorboard" else LossFile(Path(where))


def _package(module: str, install: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(f"--log needs the package {install}, which is not here: pip install {install}") from error


@contextmanager
def watched(callbacks: Sequence[Callback], edits: Sequence[str]) -> Iterator[None]:
    """For the length of the block, losses that are reported are those of the edits with these ids."""
    token = _WATCHED.set((tuple(callbacks), tuple(edits)))
    try:
        yield
    finally:
        _WATCHED.reset(token)


def report_losses(
    step: int,
    losses: Mapping[int, float],
    *,
    of: int = 1,
    terms: Mapping[int, Mapping[str, float]] | None = None,
) -> None:
    """Tell the callbacks a step's losses, each by its edit's place in the batch, which has ``of`` descents.

    ``terms``: those of each loss by name, also by place.
    """
    callbacks, edits = _WATCHED.get()
    for callback in callbacks:
        for place, loss in losses.items():
            name = edits[place] if len(edits) == of else f"{edits[0]}..{edits[-1]}"
            if terms is not None:
                callback.on_terms(name, step, terms[place])
            callback.on_step(name, step, loss)


class LossStep(BaseModel):
    """A line of `LossLines`: the loss at one step of an edit's descent, with its terms where they are told."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    edit: str
    step: int
    loss: float
    nll: float | None = None
    kl: float | None = None


def read_losses(path: Path) -> dict[str, tuple[LossStep, ...]]:
    """The last descent of each edit (or batch, ``first..last``) in a file of `LossLines`; empty where there is none.

    A descent begins at step 0: one that was interrupted and made anew stands twice in the file.

    Raises:
        OutputError: a line is none of these.
    """
    found: dict[str, list[LossStep]] = {}
    for line in read_lines(path, LossStep):
        kept = found.setdefault(line.edit, [])
        if kept and line.step <= kept[-1].step:
            kept.clear()
        kept.append(line)
    return {edit: tuple(steps) for edit, steps in found.items()}

"""Make each failed edit of a run alone: does it fail only together with the others?

A failed edit takes more steps than one that succeeds, so that these tries could take longer than the run itself. Unless
the user asks for them (``--alone``), no further try begins after `most_seconds`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter

from pydantic import BaseModel, ConfigDict

from kg_common.progress import Bar
from kg_edit.callbacks import StepNotes, send_losses
from kg_edit.edits.edit import Edit
from kg_edit.methods import EditingMethod
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.reports.probes import probes, read
from kg_edit.storage.atomic import append_lines, drop_cut_line, read_lines

ALONE = "alone.jsonl"
MOST = 50  # failed edits of a run that are made alone; with more, the first ones show the cause
# Edits in one batch, after which the file is written: at first, and at most
_FIRST_TOGETHER = 2
_MOST_TOGETHER = 8
# How long the tries may take unless they are asked for: a share of the run's time, or a moment that nobody minds
_SHARE = 1 / 5
_MOMENT_S = 10

log = logging.getLogger(__name__)


class AloneLine(BaseModel):
    """A line of ``alone.jsonl``: what the model generates after the edit alone, or the error that it raised."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    edit: str
    succeeded: bool
    generated: str = ""
    error: str = ""


def read_alone(folder: Path) -> dict[str, bool]:
    """Return whether each edit that an earlier start of the run made alone succeeded, by id.

    A last line that is incomplete, as the run was killed while it was written, is cut off the file.
    """
    drop_cut_line(folder / ALONE)
    return {line.edit: line.succeeded for line in read_lines(folder / ALONE, AloneLine)}


def most_seconds(run_seconds: float) -> float:
    """Return how long failed edits may be made alone, unasked, after a run of ``run_seconds``."""
    return max(_SHARE * run_seconds, _MOMENT_S)


def make_alone(
    method: EditingMethod,
    edits: Sequence[Edit],
    folder: Path,
    *,
    known: Mapping[str, bool],
    seconds: float | None = None,
    progress: bool = False,
) -> dict[str, bool]:
    """Make each of the ``edits`` alone on the unedited model, ask its own prompt, and append a line to `ALONE`.

    Args:
        method: the method, on the unedited model.
        edits: the failed edits, of which the first `MOST` are made.
        folder: the folder of the run.
        known: whether an edit succeeded alone, by id, as `read_alone` returns it; these are not made again.
        seconds: after this time no further batch begins, and the log says how the others are made; None: no limit.
        progress: whether to show a progress bar.

    Returns:
        ``known``, and the same for the edits that are made now.
    """
    succeeded = dict(known)
    method.start_anew()  # forget what the run's edits left for later ones
    remaining = [edit for edit in edits[:MOST] if edit.id not in known]
    with Bar(title="failed edits alone", unit="edit", total=len(remaining), shown=progress) as bar:
        began = perf_counter()
        start = 0
        while start < len(remaining):
            if seconds is not None and perf_counter() - began > seconds:
                log.warning(
                    "%d failed edits were not made alone, to save time; the same command with --alone does",
                    len(remaining) - start,
                )
                break
            # A batch is as large as the number of edits that were made before it: 2 at first, then 2, 4, 8, 8, …
            batch_size = min(_MOST_TOGETHER, max(_FIRST_TOGETHER, start))
            batch = remaining[start : start + batch_size]
            lines = _make_batch(method, batch, bar)
            append_lines(folder / ALONE, [line.model_dump_json() for line in lines])
            succeeded.update({line.edit: line.succeeded for line in lines})
            start += len(batch)
            bar.update(len(batch))
    return succeeded


def _make_batch(method: EditingMethod, batch: Sequence[Edit], bar: Bar) -> list[AloneLine]:
    """Make each edit of a batch, and ask its own prompt; return the line of each.

    Each edit has a patch of its own, though the method may run the descents of the batch in the same passes. The
    progress bar shows their steps.
    """
    with send_losses([StepNotes(bar.note, most=method.config.most_steps)], [edit.id for edit in batch]):
        results = method.edit_each(batch)  # the patch of each edit, or the error that it raised
    lines = []
    for edit, result in zip(batch, results, strict=True):
        if isinstance(result, Patch):
            lines.append(_ask_own_prompt(method.model, edit, result))
        else:
            lines.append(AloneLine(edit=edit.id, succeeded=False, error=str(result)))
    return lines


def _ask_own_prompt(model: LanguageModel, edit: Edit, patch: Patch) -> AloneLine:
    """Ask an edit's own prompt with the patch of this edit alone; of an edit in two forms, the worse one counts."""
    rewrites = [probe for probe in probes(model, edit) if probe.kind == "rewrite"]
    with patch.applied(model) as edited:
        readings = read(edited, rewrites)
    worst = min(readings, key=lambda reading: reading.grade)
    return AloneLine(edit=edit.id, succeeded=worst.success, generated=worst.text)

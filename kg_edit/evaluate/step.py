"""One step of a sequence: make the patch of one record or a batch, on the model with the earlier steps' edits.

A record that can't be edited fails alone and does not affect its batch. If memory runs out, the batch is halved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from kg_edit.datasets.record import BenchmarkRecord
from kg_edit.evaluate.cost import measured
from kg_edit.evaluate.scorer import memory_failure, release
from kg_edit.evaluate.settings import Method
from kg_edit.graphs.source import FAILURES as GRAPH_FAILURES
from kg_edit.patches.base import Patch

# The errors that count as a failed record; also numerical errors, which a method may not catch.
FAILURES = (*GRAPH_FAILURES, ArithmeticError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """The result of one step: a patch, and the errors of records that could not be edited."""

    patch: Patch | None = None  # of the edits that could be made
    errors: Mapping[str, str] = field(default_factory=dict)  # by the record's id
    seconds: float = 0.0  # per record, for the calls that made the patch
    memory: int | None = None  # largest memory during these calls, in bytes
    halved_to: int | None = None  # largest number of records edited by one call, if memory forced smaller batches


def make_step(method: Method, records: Sequence[BenchmarkRecord], *, before: Patch | None) -> StepOutcome:
    """Make the patch of ``records`` by one call of ``method``, on the model with the patch ``before`` applied.

    If the call fails, halves of the batch are tried, to find each record that fails alone; the others are then made by
    one call without these. If no record fails alone, for example because two edits contradict each other, or if memory
    runs out, the batch is split into halves that are made one after the other.
    """
    try:
        with measured() as cost:
            patch, batch = _edit(method, records, before)
    except FAILURES as error:
        return _without_culprits(method, records, before, error)
    halved = batch if batch < len(records) else None
    return StepOutcome(patch=patch, seconds=cost.seconds / len(records), memory=cost.memory, halved_to=halved)


def said(error: BaseException) -> str:
    """An error as the run's line records it: "ClassName: message"."""
    return f"{type(error).__name__}: {error}"


def _without_culprits(
    method: Method, records: Sequence[BenchmarkRecord], before: Patch | None, error: Exception
) -> StepOutcome:
    found = _culprits(method, records, before, error)
    good = [record for record in records if record.id not in found]
    if not good:
        return StepOutcome(errors=found)
    rest = make_step(method, good, before=before) if found else _in_turn(method, good, before)
    return replace(rest, errors={**found, **rest.errors})


def _in_turn(method: Method, records: Sequence[BenchmarkRecord], before: Patch | None) -> StepOutcome:
    """Make one half of the records, then the other half on the model with the first."""
    first, second = _halves(records)
    one = make_step(method, first, before=before)
    other = make_step(method, second, before=before + one.patch if before and one.patch else one.patch or before)
    patch = one.patch + other.patch if one.patch and other.patch else one.patch or other.patch
    seconds = (one.seconds * len(first) + other.seconds * len(second)) / len(records)
    sizes = [step.halved_to or len(half) for step, half in ((one, first), (other, second))]
    memory = max((step.memory for step in (one, other) if step.memory is not None), default=None)
    errors = {**one.errors, **other.errors}
    return StepOutcome(patch=patch, errors=errors, seconds=seconds, memory=memory, halved_to=max(sizes))


def _culprits(
    method: Method, records: Sequence[BenchmarkRecord], before: Patch | None, error: Exception
) -> dict[str, str]:
    """Find the records that fail alone, with their errors; ``records`` failed together with ``error``."""
    if len(records) == 1:
        return {records[0].id: said(error)}
    found: dict[str, str] = {}
    for half in _halves(records):
        try:
            _edit(method, half, before)
        except FAILURES as fault:
            found |= _culprits(method, half, before, fault)
    return found


def _edit(method: Method, records: Sequence[BenchmarkRecord], before: Patch | None) -> tuple[Patch, int]:
    """The patch, and the largest number of records that one call edited."""
    try:
        return finite(method.update([edit for record in records for edit in record.edits], before=before)), len(records)
    except (RuntimeError, MemoryError) as error:
        failure = memory_failure(error)
    release()
    if len(records) == 1:
        raise failure
    first, second = _halves(records)
    patch, batch = _edit(method, first, before)
    more, other = _edit(method, second, patch if before is None else before + patch)
    return patch + more, max(batch, other)


def _halves(records: Sequence[BenchmarkRecord]) -> tuple[Sequence[BenchmarkRecord], Sequence[BenchmarkRecord]]:
    middle = (len(records) + 1) // 2
    return records[:middle], records[middle:]


def finite(patch: Patch) -> Patch:
    """Return ``patch``; raises PatchError if it has a value that is not finite."""
    patch.check_finite()
    return patch

"""One step of a sequence: compute the patch of one record or a batch, on the model with the earlier steps' edits.

A record that can't be edited fails alone and does not affect its batch. If memory runs out, the batch is halved.
`Method` is the interface that a method needs to be evaluated. `edit_step` computes the one patch of a step;
`edit_each_alone` computes a patch for each of several records that are edited alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from pydantic import BaseModel

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import FAILURES as EDIT_FAILURES
from kg_edit.errors import RefusedEditsError, is_memory_error
from kg_edit.evaluation.memory import in_halves, make_memory_error, measure_cost, release
from kg_edit.patches.base import Patch

log = logging.getLogger(__name__)

# The errors that count as a failed record: those of an edit, and numerical errors, which a method may not catch.
FAILURES = (*EDIT_FAILURES, ArithmeticError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]


class Method(Protocol):
    """The interface of a method: a name, its settings, and a function from edits to a patch."""

    @property
    def name(self) -> str:
        """The method's name in results."""

    @property
    def config(self) -> BaseModel:
        """All settings of the method; they are stored with the scores."""

    @property
    def graph_identity(self) -> Mapping[str, Any] | None:
        """The identity, as JSON, of the knowledge graph that the method reads; None if it reads none."""

    def prepare(self) -> None:
        """Do the work that all edits share once, so that no edit's time includes it."""

    def edit(self, edits: Sequence[Edit], *, before: Patch | None = None) -> Patch:
        """Return the patch that adds ``edits`` to the model with the patch ``before``; the model is not changed."""


@runtime_checkable
class EditsEach(Protocol):
    """A method that can compute many edits at once, each as if it were the only one."""

    def edit_each(self, edits: Sequence[Edit]) -> Sequence[Patch | Exception]:
        """Return a patch for each edit alone, or the error if it can't be computed; the model is not changed."""


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """The result of one step: a patch, and the errors of records that could not be edited."""

    patch: Patch | None = None  # of the edits that could be computed
    errors: Mapping[str, str] = field(default_factory=dict)  # by the record's id
    seconds: float = 0.0  # per record, for the calls that computed the patch
    memory: int | None = None  # largest memory during these calls, in bytes
    halved_to: int | None = None  # largest number of records edited by one call, if memory forced smaller batches


def edit_step(method: Method, records: Sequence[BenchmarkRecord], *, before: Patch | None) -> StepOutcome:
    """Compute the patch of ``records`` by one call of ``method``, on the model with the patch ``before`` applied.

    If the call fails, the records that its error names (`RefusedEditsError`) are left out. If it names none, halves of
    the batch are tried, to find each record that fails alone (`_find_failing`). The others are then computed by one
    call without these.

    A batch is computed in two halves, the second one on the model with the first, for either of two reasons. If memory
    runs out, `_call_method` calls the method for each half, and the step remains one. If the call fails although no
    record fails alone, for example because two edits contradict each other, each half becomes a step of its own
    (`_edit_halves`), whose records may fail.

    Args:
        method: computes the patch.
        records: the records of the step, each with one or more edits.
        before: the patch of the earlier steps; None if there are none.

    Returns:
        The patch of all records without an error (None if there are none), the errors, and the cost.
    """
    try:
        with measure_cost() as cost:
            patch, largest_call = _call_method(method, records, before)
    except FAILURES as error:
        errors = _read_refusals(records, error)
        if not errors:
            errors = _find_failing(method, records, before, error)
        if not errors:
            log.warning("a batch of %d records can't be made at once, so its halves are: %s", len(records), error)
            return _edit_halves(method, records, before)
        remaining = [record for record in records if record.id not in errors]
        if not remaining:
            return StepOutcome(errors=errors)
        method_for_rest = method
        if isinstance(error, RefusedEditsError) and error.method:
            method_for_rest = error.method  # it knows the values that were already found for the remaining edits
        outcome = edit_step(method_for_rest, remaining, before=before)
        return replace(outcome, errors={**errors, **outcome.errors})
    halved_to = None
    if largest_call < len(records):
        halved_to = largest_call
    return StepOutcome(patch=patch, seconds=cost.seconds / len(records), memory=cost.memory, halved_to=halved_to)


def _read_refusals(records: Sequence[BenchmarkRecord], error: Exception) -> dict[str, str]:
    """Return the records that an error of a batch names, with the reason of each; none for an error that names none."""
    if not isinstance(error, RefusedEditsError):
        return {}
    errors = dict[str, str]()
    for record in records:
        for edit in record.edits:
            if edit.id in error.reasons:
                errors[record.id] = describe_failure(error.reasons[edit.id])
    return errors


def edit_each_alone(method: EditsEach, records: Sequence[BenchmarkRecord]) -> dict[str, StepOutcome]:
    """Compute a patch of its own for each record (of one edit), all in one call, or in halves if memory runs out.

    Returns:
        The outcome of each record by its id; seconds are the call's, divided by the number of records.
    """
    with measure_cost() as cost:
        results = in_halves(method.edit_each, [record.edits[0] for record in records])
    outcomes = {}
    for record, result in zip(records, results, strict=True):
        try:
            patch = _check_result(result)
        except FAILURES as error:
            outcomes[record.id] = StepOutcome(errors={record.id: describe_failure(error)})
            continue
        seconds = cost.seconds / len(records)
        outcomes[record.id] = StepOutcome(patch=patch, seconds=seconds, memory=cost.memory)
    return outcomes


def _check_result(result: Patch | Exception) -> Patch:
    """Return a patch that is finite; raise the error that a method gives in its place."""
    if isinstance(result, Exception):
        raise result
    result.check_finite()
    return result


def add_patches(patch: Patch | None, update: Patch | None) -> Patch | None:
    """Return the sum of two patches, of which either may be missing."""
    if patch and update:
        return patch + update
    return update or patch


def describe_failure(error: BaseException) -> str:
    """Return an error as the run's line records it: "ClassName: message"; log its traceback if that is asked for."""
    if os.environ.get("KG_EDIT_TRACEBACK"):
        log.error("%s", error, exc_info=error)
    return f"{type(error).__name__}: {error}"


def _call_method(method: Method, records: Sequence[BenchmarkRecord], before: Patch | None) -> tuple[Patch, int]:
    """Return the patch of some records, and the largest number of records that one call of the method edited.

    If memory runs out, the patch is the sum of the halves' patches.
    """
    edits = list[Edit]()
    for record in records:
        edits += record.edits
    try:
        patch = method.edit(edits, before=before)
        patch.check_finite()
        return patch, len(records)
    except (RuntimeError, MemoryError) as error:
        if not is_memory_error(error):
            raise
        failure = make_memory_error(error)  # made here, because the error keeps the failed call's tensors alive
    release()
    if len(records) == 1:
        raise failure
    first_half, second_half = _halve(records)
    first, first_size = _call_method(method, first_half, before)
    second, second_size = _call_method(method, second_half, add_patches(before, first))
    return first + second, max(first_size, second_size)


def _find_failing(
    method: Method, records: Sequence[BenchmarkRecord], before: Patch | None, error: Exception
) -> dict[str, str]:
    """Find the records that fail alone, with their errors; ``records`` failed together with ``error``.

    No patch of these trials is kept: `edit_step` computes that of all other records in one call.
    """
    if len(records) == 1:
        return {records[0].id: describe_failure(error)}
    errors: dict[str, str] = {}
    for half in _halve(records):
        try:
            _call_method(method, half, before)
        except FAILURES as error_of_half:
            errors |= _find_failing(method, half, before, error_of_half)
    return errors


def _edit_halves(method: Method, records: Sequence[BenchmarkRecord], before: Patch | None) -> StepOutcome:
    """Edit the first half of a batch as a step, then the second one on the model with the first."""
    first_half, second_half = _halve(records)
    first = edit_step(method, first_half, before=before)
    second = edit_step(method, second_half, before=add_patches(before, first.patch))
    memories = [step.memory for step in (first, second) if step.memory is not None]
    seconds = first.seconds * len(first_half) + second.seconds * len(second_half)
    return StepOutcome(
        patch=add_patches(first.patch, second.patch),
        errors={**first.errors, **second.errors},
        seconds=seconds / len(records),
        memory=max(memories, default=None),
        halved_to=max(first.halved_to or len(first_half), second.halved_to or len(second_half)),
    )


def _halve(records: Sequence[BenchmarkRecord]) -> tuple[Sequence[BenchmarkRecord], Sequence[BenchmarkRecord]]:
    middle = (len(records) + 1) // 2
    return records[:middle], records[middle:]

"""Groups of records that are each edited alone: edited, scored and written together, as far as memory allows.

A group has as many records as are done, at least `COMMITTED` and at most `TOGETHER`: 4, 4, 8, 16, 16, … A short run
loses little when it is killed, and a long run loses no speed: a record in a group of sixteen takes 0.7 of the time of
one in a group of four. The patches of a group take `HELD` bytes at most, or the group has one record. Before the first
patch is known, it is taken to be as large as the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from kg_edit.evaluate.sequence import TOGETHER, Ahead, Job, SequenceRun, ahead_of, keep_unedited

COMMITTED = 4  # records to do together at the beginning of a run
HELD = 2_500_000_000  # bytes that the patches of a group may take


@dataclass(kw_only=True)
class _Size:
    """The size of the next group."""

    assumed: int  # bytes of a patch, before one is known
    largest: int = 0  # bytes of the largest patch so far
    done: int = 0  # records

    @property
    def next(self) -> int:
        """The number of records of the next group."""
        return max(1, min(TOGETHER, max(COMMITTED, self.done), HELD // (self.largest or self.assumed)))

    def saw(self, ahead: Ahead, count: int) -> None:
        """Note the patches of a group of ``count`` records."""
        self.largest = max([self.largest, *(step.patch.nbytes for step in ahead.steps.values() if step.patch)])
        self.done += count


def in_groups(job: Job, runs: Sequence[SequenceRun], begin: Callable[[int, int], object]) -> Iterator[SequenceRun]:
    """Yield ``runs`` of one record each, in turn, with what was computed for their group at once.

    The unedited model is asked about `TOGETHER` records at once, and their scores are kept. ``begin`` gets the place of
    a group's first record, and the group's size.
    """
    size = _Size(assumed=sum(weight.nbytes for weight in job.model.model.parameters()))
    asked = 0
    while some := runs[size.done : size.done + size.next]:
        begin(size.done, len(some))
        while asked < size.done + len(some):
            _keep_unedited(job, runs[asked : asked + TOGETHER])
            asked += TOGETHER
        ahead = _ahead(job, some)
        size.saw(ahead, len(some))
        yield from (replace(run, job=replace(job, ahead=ahead)) for run in some)


def _keep_unedited(job: Job, runs: Sequence[SequenceRun]) -> None:
    items = [run.items[0] for run in runs]
    keep_unedited(job.model, job.unedited, items, job.done, ceilings=job.options.ceilings)


def _ahead(job: Job, runs: Sequence[SequenceRun]) -> Ahead:
    items = [run.items[0] for run in runs]
    return ahead_of(job.method, job.model, job.unedited, items, job.done, ceilings=job.options.ceilings)

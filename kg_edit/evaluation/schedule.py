"""The schedule of a run: whether records are edited alone, in batches, in sequence, or in a sequence of batches.

A `Schedule` assigns records to sequences and steps, a `CurvePlan` lists the records to score after each step, and a
`Shard` is the part of a run's sequences for one process or machine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from kg_edit.errors import ConfigError, unknown_name

_FORMS = ("single", "batch", "sequential")
_EXAMPLES = "single, batch:32, sequential:100 or batch:32,sequential:1000"
CURVE_POINTS = 10  # by default
CURVE_RECORDS = 100  # earlier records to score at a point, at most; the last point has all
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """``sequence`` edits accumulate in the model before it is reset; ``batch`` of them are made by one call of the
    method.

    As text, with (batch, sequence): ``single`` (1, 1), ``batch:N`` (N, N), ``sequential:N`` (1, N) and
    ``batch:B,sequential:N`` (B, N), that is N edits in batches of B. The last batch may be smaller. ``str`` gives the
    text in this canonical form.
    """

    batch: int = 1
    sequence: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of a schedule."""
        sizes: dict[str, int] = {}
        for part in text.replace(" ", "").split(","):
            name, size = _parse_part(part, text)
            if name in sizes or "single" in sizes or (sizes and name == "single"):
                raise ConfigError(f"schedule {text!r}: {part!r} repeats an earlier part; expected {_EXAMPLES}")
            sizes[name] = size
        batch = sizes.get("batch", 1)
        sequence = sizes.get("sequential", sizes.get("batch", 1))
        if batch > sequence:
            raise ConfigError(
                f"schedule {text!r}: a batch of {batch} is larger than a sequence of {sequence} edits; "
                f"write batch:{sequence}, or a longer sequence"
            )
        return cls(batch=batch, sequence=sequence)

    def __str__(self) -> str:
        if self.sequence == 1:
            return "single"
        if self.batch == self.sequence:
            return f"batch:{self.batch}"
        if self.batch == 1:
            return f"sequential:{self.sequence}"
        return f"batch:{self.batch},sequential:{self.sequence}"

    def in_words(self, records: int) -> str:
        """Return when a record of a run of ``records`` has its last score, such as "after all 20 edits of the
        sequence".
        """
        if self.sequence == 1:
            return "each record edited alone"
        size = min(self.sequence, records)
        which = "the" if self.sequence >= records else "its"
        if not self.has_steps:
            return f"after all {size} edits of {which} batch"
        batches = f", in batches of {self.batch}" if self.batch > 1 else ""
        return f"after all {size} edits of {which} sequence{batches}"

    @property
    def has_steps(self) -> bool:
        """Whether edits are made on a model that already has earlier edits."""
        return self.batch < self.sequence

    def steps(self, records: int) -> Iterator[range]:
        """Yield for each step the indices of its records in a sequence of ``records``."""
        for start in range(0, records, self.batch):
            yield range(start, min(start + self.batch, records))


def _parse_part(part: str, text: str) -> tuple[str, int]:
    """Return the form and the number of a part of the schedule ``text``: "batch:32" is ("batch", 32)."""
    name, colon, size = part.partition(":")
    if name not in _FORMS:
        raise unknown_name("schedule", name, _FORMS)
    if name == "single":
        if colon:
            raise ConfigError(f"schedule {text!r}: single takes no number; expected {_EXAMPLES}")
        return name, 1
    if not (size.isascii() and size.isdecimal() and int(size) > 0):
        raise ConfigError(f"schedule {text!r}: {name} needs a number of edits, found {size!r}; expected {_EXAMPLES}")
    return name, int(size)


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """A scoring after ``edits`` edits: the indices of the records to score, and whether it is a point of the curve."""

    step: range
    edits: int
    indices: tuple[int, ...]
    on_curve: bool
    last: bool


@dataclass(frozen=True, kw_only=True)
class CurvePlan:
    """A schedule, and the number of records between two points of the curve.

    Each record is scored right after its own step, and after the last step. At each point of the curve, earlier records
    are scored too: all of them, or `CURVE_RECORDS` evenly spread ones if there are more.

    With ``sample`` only the points of the curve are scored, each with at most so many evenly spread records.
    """

    schedule: Schedule
    every: int
    sample: int | None = None

    @classmethod
    def of(cls, schedule: Schedule, every: int | None = None, *, sample: int | None = None) -> CurvePlan:
        """Return the plan with ``every``; by default with about ten points."""
        if every is None:
            every = math.ceil(schedule.sequence / CURVE_POINTS)
        return cls(schedule=schedule, every=every, sample=sample)

    def scorings(self, records: int) -> Iterator[Scoring]:
        """Yield the scorings of a sequence of ``records``, step by step."""
        for step in self.schedule.steps(records):
            last = step.stop == records
            # a multiple of `every` is passed or reached
            on_curve = last or step.stop // self.every > step.start // self.every
            indices = self._indices(step, on_curve=on_curve, last=last)
            yield Scoring(step=step, edits=step.stop, indices=indices, on_curve=on_curve, last=last)

    def _indices(self, step: range, *, on_curve: bool, last: bool) -> tuple[int, ...]:
        """Return the records to score after a step: the earlier ones, then the step's own."""
        if self.sample is not None:
            return _spread(step.stop, most=self.sample) if on_curve else ()
        if last:
            return (*range(step.start), *step)
        if on_curve:
            return (*_spread(step.start), *step)
        return tuple(step)

    def scored(self, ids: Sequence[str]) -> Sequence[str]:
        """Return those of a sequence's ``ids`` that are scored at all: all of them without ``sample``."""
        if self.sample is None:
            return ids
        scored = set[int]()
        for scoring in self.scorings(len(ids)):
            scored.update(scoring.indices)
        return [ids[index] for index in sorted(scored)]


def _spread(records: int, *, most: int = CURVE_RECORDS) -> tuple[int, ...]:
    """Return at most ``most`` indices below ``records``, evenly spread, beginning with 0."""
    count = min(records, most)
    return tuple(index * records // count for index in range(count))


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Shard ``part`` (0-based) of ``parts``: every ``parts``-th sequence of edits, beginning with number ``part``.

    A sequence is never split, because its edits share one model (under the schedule single it is one record).
    """

    part: int = 0
    parts: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text of a shard, such as 0/4."""
        match = re.fullmatch(r"\s*([0-9]+)\s*/\s*([0-9]+)\s*", text)
        part = int(match[1]) if match else 0
        parts = int(match[2]) if match else 0
        if part >= parts:
            raise ConfigError(f"shard {text!r}: expected i/n with i from 0 to n-1, such as 0/4, 1/4, 2/4 and 3/4")
        return cls(part=part, parts=parts)

    def __str__(self) -> str:
        return f"{self.part}/{self.parts}"

    def deal(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the part of ``items`` (sequences, or records edited alone) for this shard, in their order."""
        return items[self.part :: self.parts]

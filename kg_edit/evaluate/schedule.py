"""When a run edits and scores: each record alone, in batches, one after the other, or batch after batch.

A `Schedule` deals records to sequences and steps, a `CurvePlan` says what is scored after which step, a `Shard` is the
part of a run's sequences that one process or machine takes.
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
CURVE_POINTS = 10  # where nothing else is asked for
CURVE_RECORDS = 100  # of the edits made so far, scored at a point; the last point has all
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """``sequence`` edits accumulate in the model before it is reset, ``batch`` of them made by one call of the method.

    In words: ``single`` (1, 1), ``batch:N`` (N, N), ``sequential:N`` (1, N) and ``batch:B,sequential:N`` (B, N): N
    edits in all, in batches of B, of which the last may be smaller. ``str`` gives the words in this canonical form.
    """

    batch: int = 1
    sequence: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """The schedule that ``text`` names.

        Raises:
            UnknownNameError: a part is none of the forms; suggests the nearest.
            ConfigError: a number is missing, wrong, or given twice; or a batch is larger than its sequence.
        """
        sizes: dict[str, int] = {}
        for part in text.replace(" ", "").split(","):
            name, size = _part(part, text)
            if name in sizes or "single" in sizes or (sizes and name == "single"):
                raise ConfigError(f"schedule {text!r}: {part!r} says again how edits meet; expected {_EXAMPLES}")
            sizes[name] = size
        batch, sequence = sizes.get("batch", 1), sizes.get("sequential", sizes.get("batch", 1))
        if batch > sequence:
            raise ConfigError(
                f"schedule {text!r}: a batch of {batch} is more than the {sequence} edits of a sequence; "
                f"write batch:{sequence}, or a longer sequence"
            )
        return cls(batch=batch, sequence=sequence)

    def __str__(self) -> str:
        if self.sequence == 1:
            return "single"
        if self.batch == self.sequence:
            return f"batch:{self.batch}"
        return f"batch:{self.batch},sequential:{self.sequence}" if self.batch > 1 else f"sequential:{self.sequence}"

    @property
    def has_steps(self) -> bool:
        """Whether edits are made on a model that holds earlier ones."""
        return self.batch < self.sequence

    def steps(self, records: int) -> Iterator[range]:
        """The places, in a sequence of ``records``, of the records that are edited together, step after step."""
        for start in range(0, records, self.batch):
            yield range(start, min(start + self.batch, records))


def _part(part: str, text: str) -> tuple[str, int]:
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
    """After ``edits`` edits: the places of the records to be scored, and whether this is a point of the curve."""

    step: range
    edits: int
    places: tuple[int, ...]
    on_curve: bool
    last: bool


@dataclass(frozen=True, kw_only=True)
class CurvePlan:
    """A schedule, and after how many edits there is another point of the curve.

    Each record is scored right after its own step, and after the last; at each point so are the earlier ones, all if
    they are at most `CURVE_RECORDS`, else so many, evenly spread.
    """

    schedule: Schedule
    every: int

    @classmethod
    def of(cls, schedule: Schedule, every: int | None = None) -> CurvePlan:
        """The plan with ``every``, or with about ten points."""
        return cls(schedule=schedule, every=every or math.ceil(schedule.sequence / CURVE_POINTS))

    def scorings(self, records: int) -> Iterator[Scoring]:
        """What is scored in a sequence of ``records``, step after step."""
        for step in self.schedule.steps(records):
            last = step.stop == records
            on_curve = last or step.stop // self.every > step.start // self.every
            earlier = range(step.start) if last else _spread(step.start) if on_curve else ()
            places = (*earlier, *step)
            yield Scoring(step=step, edits=step.stop, places=places, on_curve=on_curve, last=last)


def _spread(records: int) -> tuple[int, ...]:
    """At most `CURVE_RECORDS` places below ``records``, from the first on, evenly spread."""
    some = min(records, CURVE_RECORDS)
    return tuple(place * records // some for place in range(some))


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Shard ``part`` of ``parts``, the first being 0: every ``parts``-th sequence of edits from number ``part`` on.

    Sequences are dealt whole (under the schedule single each is one record), as the edits of one meet in the model.
    """

    part: int
    parts: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The shard that ``text``, such as 0/4, names.

        Raises:
            ConfigError: it names none.
        """
        found = re.fullmatch(r"\s*([0-9]+)\s*/\s*([0-9]+)\s*", text)
        part, parts = map(int, found.groups()) if found else (0, 0)
        if part >= parts:
            raise ConfigError(f"shard {text!r}: expected i/n with i from 0 to n-1, such as 0/4, 1/4, 2/4 and 3/4")
        return cls(part=part, parts=parts)

    def __str__(self) -> str:
        return f"{self.part}/{self.parts}"

    def deal(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those of ``items`` (sequences, or records edited alone) that this shard takes, in their order."""
        return items[self.part :: self.parts]


WHOLE = Shard(part=0, parts=1)

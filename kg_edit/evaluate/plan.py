"""Which records are scored when: in a sequence of edits, after each step and at the points of the curve."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from kg_edit.evaluate.schedule import Schedule

CURVE_POINTS = 10  # where nothing else is asked for
CURVE_RECORDS = 100  # of the edits made so far, scored at a point; the last point has all


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """After ``edits`` edits: the places of the records to be scored, and whether this is a point of the curve."""

    step: range
    edits: int
    places: tuple[int, ...]
    on_curve: bool
    last: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A schedule, and after how many edits there is another point of the curve.

    Each record is scored right after its own step, and after the last; at each point so are the earlier ones, all if
    they are at most `CURVE_RECORDS`, else so many, evenly spread.
    """

    schedule: Schedule
    every: int

    @classmethod
    def of(cls, schedule: Schedule, every: int | None = None) -> Plan:
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

"""Statements of every rank but deprecated, with the times for which they hold."""

from collections.abc import Iterable
from typing import NamedTuple


class Claim(NamedTuple):
    """One full statement of an item. Times are xsd:dateTime texts, "" where none is stated."""

    property: str
    object: str
    rank: str
    start: str
    end: str


def as_attributes(claims: Iterable[Claim]) -> dict[str, object]:
    """Edge attributes: `rank`, `start` and `end` of the best claim, and all `claims`, the best first.

    The best has the highest rank, then the latest start, then the latest end; one without an end lasts.
    """
    best_first = sorted(sorted(claims, key=_latest, reverse=True), key=lambda claim: claim.rank != "preferred")
    said = [{"rank": c.rank, "start": c.start or None, "end": c.end or None} for c in best_first]
    return {**said[0], "claims": said}


def _latest(claim: Claim) -> tuple[object, ...]:
    return _moment(claim.start), not claim.end, _moment(claim.end)


def _moment(time: str) -> tuple[int, str]:
    """Year, and the rest of an xsd:dateTime: years before our era begin with a minus."""
    sign, digits = (-1, time[1:]) if time.startswith("-") else (1, time)
    year, _, rest = digits.partition("-")
    return (sign * int(year), rest) if year.isdigit() else (-(10**9), time)

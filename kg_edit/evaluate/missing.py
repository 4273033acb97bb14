"""What a run still lacks: asked before it goes on, and before its shards are merged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kg_edit.evaluate.plan import Plan, Scoring
from kg_edit.evaluate.records import BASE, EDIT, EDITED, RunFolder, phase_after

Done = Mapping[tuple[str, str], str | None]  # (id, phase) -> error
Points = frozenset[tuple[int, int]]  # (sequence, edits) of general ability


def found_in(folder: RunFolder) -> tuple[Done, Points]:
    """What a run's folder holds.

    Raises:
        OutputError: a line of it can't be read.
    """
    done = {(entry.id, entry.phase): entry.error for entry in folder.entries()}
    return done, frozenset((point.sequence, point.edits) for point in folder.points())


def missing_phases(plan: Plan, ids: Sequence[str], done: Done) -> Iterator[tuple[str, str]]:
    """What is not ``done`` of a sequence of records; one that the unedited model fails on has nothing but its base."""
    usable = [name for name in ids if done.get((name, BASE)) is None]
    yield from ((name, BASE) for name in ids if (name, BASE) not in done)
    yield from ((name, EDIT) for name in usable if (name, EDIT) not in done)
    for scoring in plan.scorings(len(ids)):
        wanted = ((ids[place], phase_of(scoring)) for place in scoring.places)
        yield from (key for key in wanted if key[0] in usable and key not in done)


def missing_points(plan: Plan, number: int, records: int, points: Points) -> Iterator[int]:
    """After how many edits of sequence ``number`` the general ability is still to be found."""
    wanted = [0, *(scoring.edits for scoring in plan.scorings(records) if scoring.on_curve)]
    yield from (edits for edits in wanted if (number, edits) not in points)


def phase_of(scoring: Scoring) -> str:
    """What a scoring is called in the records."""
    return EDITED if scoring.last else phase_after(scoring.edits)

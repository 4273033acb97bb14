"""What a network is trained on: an edit, and prompts whose answers must stay (`kg_edit.datasets.locality`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kg_edit.datasets.locality import locality_queries
from kg_edit.datasets.record import BenchmarkRecord, as_record
from kg_edit.edits.edit import Edit
from kg_edit.scoring.questions import scored_after
from kg_edit.storage.run_folder import digest


class Lesson(NamedTuple):
    """An edit, and pairs (prompt, answer) that must stay as they are; none if its file has none."""

    edit: Edit
    kept: tuple[tuple[str, str], ...] = ()


def lessons_of(items: Iterable[Edit | BenchmarkRecord]) -> list[Lesson]:
    """The lessons of edits and of records; each edit of a record has the record's locality probes."""
    return [Lesson(edit, _kept(edit, record)) for record in map(as_record, items) for edit in record.edits]


def _kept(edit: Edit, record: BenchmarkRecord) -> tuple[tuple[str, str], ...]:
    """The prompts in scored form with their answers; a neighbour without an old target gets the new one.

    The answer only says at which tokens the predictions must stay.
    """
    return tuple(
        (scored_after(query), query.answers[0][0] if query.answers else edit.target_new)
        for query in locality_queries(edit, record)
    )


def digest_of(lessons: Iterable[Lesson]) -> str:
    """SHA-256, in hex, of the edits and of what must stay beside what the edits themselves say."""
    said = [
        (edit.model_dump(mode="json", exclude_defaults=True), [] if edit.neighborhood else kept)
        for edit, kept in lessons
    ]
    return digest([[dumped, kept] if kept else dumped for dumped, kept in said])

"""What a network is trained on: an edit, and prompts whose answers must stay.

CounterFact has neighbours of an edit, whose answer is the old target. zsRE and KnowEdit have locality probes with
answers of their own; they belong to the record, not to the edit. A file of edits may have neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kg_edit.datasets.record import BenchmarkRecord, as_record
from kg_edit.edits.edit import Edit
from kg_edit.scoring.questions import pair_of
from kg_edit.storage.run_folder import digest


class Lesson(NamedTuple):
    """An edit, and pairs (prompt, answer) that must stay as they are; none if its file has none."""

    edit: Edit
    kept: tuple[tuple[str, str], ...] = ()


def lessons_of(items: Iterable[Edit | BenchmarkRecord]) -> list[Lesson]:
    """The lessons of edits and of records; each edit of a record has the record's locality probes."""
    return [Lesson(edit, _kept(edit, record)) for record in map(as_record, items) for edit in record.edits]


def _kept(edit: Edit, record: BenchmarkRecord) -> tuple[tuple[str, str], ...]:
    """The edit's neighbours with the old target, or else the record's locality probes with their answers."""
    if edit.neighborhood:
        return tuple((prompt, edit.target_true or edit.target_new) for prompt in edit.neighborhood)
    queries = (query for probe in record.group("locality") for query in probe.queries if query.answers)
    return tuple((pair.prompt, pair.candidate) for pair in map(pair_of, queries))


def digest_of(lessons: Iterable[Lesson]) -> str:
    """SHA-256, in hex, of the edits and of what must stay beside what the edits themselves say."""
    said = [
        (edit.model_dump(mode="json", exclude_defaults=True), [] if edit.neighborhood else kept)
        for edit, kept in lessons
    ]
    return digest([[dumped, kept] if kept else dumped for dumped, kept in said])

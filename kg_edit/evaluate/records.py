"""The folder of a run: its settings, and a JSON line for each phase of each record, appended as soon as it is there.

A run that was killed reads its lines and does what is missing; the same check precedes the merge of shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from kg_edit.datasets.record import BenchmarkRecord
from kg_edit.evaluate.case import Case
from kg_edit.evaluate.general_tasks import DocumentScores
from kg_edit.evaluate.schedule import CurvePlan, Scoring
from kg_edit.scoring.questions import Form, choices
from kg_edit.storage.atomic import append_lines, drop_cut_line, read_lines
from kg_edit.storage.run_folder import digest

BASE, EDIT, EDITED = "base", "edit", "edited"  # phases of a record; besides, after:K in a sequence
Done = Mapping[tuple[str, str], str | None]  # (id, phase) -> error
Points = frozenset[tuple[int, int]]  # (sequence, edits) of general ability


def phase_after(edits: int) -> str:
    """The phase in which a record is scored on the model with the first ``edits`` of its sequence."""
    return f"after:{edits}"


class Section(BaseModel):
    """A record's scores on one model, and all that decided them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scores: dict[str, float | None]
    nll: dict[str, dict[str, float]]  # prompt -> candidate -> nats a token
    texts: dict[str, str]  # rewrite prompt, question or probe -> greedy continuation
    predicted: dict[str, dict[str, tuple[int, ...]]] = {}  # prompt -> candidate -> arg-max tokens at its places
    samples: dict[str, str] = {}  # prompt -> itself and what was sampled after it


class Entry(BaseModel):
    """A line of ``records.jsonl``: a phase of a record.

    ``base`` has the unedited model's sections (base, and the ceilings) and the choices; ``edit`` how the edit went;
    ``edited`` the section of the model with all edits of the record's sequence; ``after:K`` that with the first K.
    A phase with an ``error`` lacks its section, but that a record edited alone then counts as the unedited model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    phase: str
    sha256: str  # of the record
    error: str | None = None
    seconds: float | None = None  # of computing the edit, its share of the batch
    batch: int | None = None  # how many edits one call made, where memory did not allow what was planned
    choices: tuple[tuple[str, ...], ...] = ()  # a tuple a question, the right answer first
    sections: dict[str, Section] = {}


class Point(BaseModel):
    """A line of ``general.jsonl``: what the model with the first ``edits`` of a sequence can do besides.

    ``tasks``: the scores of each document, by metric (`kg_edit.evaluate.general_tasks`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequence: int
    edits: int
    scores: dict[str, float | None]
    tasks: dict[str, DocumentScores] = {}
    error: str | None = None


@dataclass(frozen=True)
class RunFolder:
    """Paths of the files in a run's folder, and what is read from them."""

    path: Path

    @property
    def records(self) -> Path:
        """File of JSON lines, one for each phase of each record (`Entry`)."""
        return self.path / "records.jsonl"

    @property
    def general(self) -> Path:
        """File of JSON lines with the general ability after so many edits of a sequence (`Point`)."""
        return self.path / "general.jsonl"

    def step(self, sequence: int, step: int) -> Path:
        """The patch of a step of a sequence."""
        return self.path / "patches" / f"{sequence:05d}-{step:05d}.safetensors"

    def entries(self) -> Iterator[Entry]:
        """The phases of records that are there, but for a last line that was cut.

        Raises:
            OutputError: a line is no such phase.
        """
        return read_lines(self.records, Entry)

    def points(self) -> Iterator[Point]:
        """What general ability was found.

        Raises:
            OutputError: a line is none.
        """
        return read_lines(self.general, Point)

    def drop_cut_lines(self) -> None:
        """Drop a last line without an end: a run was killed while it wrote it."""
        for file in (self.records, self.general):
            drop_cut_line(file)

    def append(self, entries: Iterable[Entry]) -> None:
        """Add phases; when this returns, they are on the disk.

        Raises:
            OutputError: they can't be written; what was there is as it was.
        """
        append_lines(self.records, [entry.model_dump_json(exclude_defaults=True) for entry in entries])

    def append_point(self, point: Point) -> None:
        """The same for general ability.

        Raises:
            OutputError: as `append`.
        """
        append_lines(self.general, [point.model_dump_json(exclude_defaults=True)])


class RunRecord(BaseModel):
    """What a run found about a record: its phases together, without what decided the scores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    sha256: str
    error: str | None = None  # of its first phase that has one
    seconds: float | None = None
    choices: tuple[tuple[str, ...], ...] = ()
    scores: dict[str, dict[str, float | None]] = {}  # section -> metric


def joined(entries: Iterable[Entry]) -> tuple[RunRecord, ...]:
    """The records that ``entries`` are about, in the order in which they first come."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        record = found.setdefault(entry.id, {"id": entry.id, "sha256": entry.sha256, "scores": {}})
        record["scores"] |= {name: section.scores for name, section in entry.sections.items()}
        for field in ("error", "seconds", "choices"):
            record[field] = record.get(field) or getattr(entry, field)
    return tuple(RunRecord(**record) for record in found.values())


@dataclass(frozen=True, kw_only=True)
class Item:
    """A benchmark's record and the case that is made of it."""

    record: BenchmarkRecord
    case: Case

    @property
    def id(self) -> str:
        """The record's id, unique in its file."""
        return self.record.id

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the record's JSON, by which a resumed run knows it."""
        return record_digest(self.record)


def items(
    records: Sequence[BenchmarkRecord],
    pool: Mapping[Form, str],
    *,
    seed: int,
    extras: Sequence[str] = (),
    chat: bool | None = None,
) -> list[Item]:
    """Each record with the answers to choose from drawn out of ``pool``; ``extras`` are costly metrics asked for.

    ``chat``: whether all is asked in chat form; None: in the form in which a record's edits are made.
    """
    drawn = (choices(record, pool, seed=seed) for record in records)
    cases = (
        Case.of(record, choices=some, extras=tuple(extras), chat=chat)
        for record, some in zip(records, drawn, strict=True)
    )
    return [Item(record=record, case=case) for record, case in zip(records, cases, strict=True)]


def record_digest(record: BenchmarkRecord) -> str:
    """SHA-256, in hex, of the record's JSON."""
    return digest(record.model_dump(mode="json"))


def found_in(folder: RunFolder) -> tuple[Done, Points]:
    """What a run's folder holds.

    Raises:
        OutputError: a line of it can't be read.
    """
    done = {(entry.id, entry.phase): entry.error for entry in folder.entries()}
    return done, frozenset((point.sequence, point.edits) for point in folder.points())


def missing_phases(plan: CurvePlan, ids: Sequence[str], done: Done) -> Iterator[tuple[str, str]]:
    """What is not ``done`` of a sequence of records; one that the unedited model fails on has nothing but its base."""
    usable = [name for name in ids if done.get((name, BASE)) is None]
    yield from ((name, BASE) for name in ids if (name, BASE) not in done)
    yield from ((name, EDIT) for name in usable if (name, EDIT) not in done)
    for scoring in plan.scorings(len(ids)):
        wanted = ((ids[place], phase_of(scoring)) for place in scoring.places)
        yield from (key for key in wanted if key[0] in usable and key not in done)


def missing_points(plan: CurvePlan, number: int, records: int, points: Points) -> Iterator[int]:
    """After how many edits of sequence ``number`` the general ability is still to be found."""
    wanted = [0, *(scoring.edits for scoring in plan.scorings(records) if scoring.on_curve)]
    yield from (edits for edits in wanted if (number, edits) not in points)


def phase_of(scoring: Scoring) -> str:
    """What a scoring is called in the records."""
    return EDITED if scoring.last else phase_after(scoring.edits)

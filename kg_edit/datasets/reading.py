"""A benchmark's rows as records; faults name file, record and field."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from kg_edit.datasets.documents import document, every_row
from kg_edit.datasets.record import BenchmarkRecord
from kg_edit.errors import EditError, EditFileError, Fault, describe, faults_of

Row = Mapping[str, Any]
Parse = Callable[[Row, str], BenchmarkRecord]


class Problem(NamedTuple):
    """Why a row of a benchmark file is no record that can be used."""

    file: Path
    row: int  # from 1
    id: str
    fault: Fault

    def __str__(self) -> str:
        return f"{self.file}, record {self.row}, {self.fault}"


@dataclass(frozen=True)
class Reading:
    """What a file holds: its records, and what is wrong with the rows that are none."""

    records: tuple[BenchmarkRecord, ...]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A benchmark: how its published file is read. ``dataset(path)`` reads it whole; `read` goes on after faults.

    Attributes:
        name: what it is called on the command line.
        about: what it holds, and who published it.
        measures: the groups of probes that its records may hold.
        edits_have: what their edits may bring: target_true, paraphrases, neighborhood, questions.
        parser: makes what turns a row, and a name for it, into a record; called once a file.
        rows: a JSON document to its rows.
    """

    name: str
    about: str
    measures: tuple[str, ...]
    parser: Callable[[], Parse]
    edits_have: tuple[str, ...] = ()
    rows: Callable[[object], Iterable[object]] = every_row

    def __call__(self, path: Path, *, limit: int | None = None) -> tuple[BenchmarkRecord, ...]:
        """The records in the file's order, the first ``limit`` of them (None: all).

        Raises:
            EditFileError: the file can't be read, or a record is wrong; names it.
        """
        found = self.read(path, limit=limit)
        if found.problems:
            more = f" ({len(found.problems) - 1} more such faults)" if len(found.problems) > 1 else ""
            raise EditFileError(f"{found.problems[0]}{more}")
        return found.records

    def read(self, path: Path, *, limit: int | None = None) -> Reading:
        """The same of the first ``limit`` rows, but that rows with faults are reported and left out.

        Raises:
            EditFileError: the file can't be read at all, or holds no rows.
        """
        records: dict[str, BenchmarkRecord] = {}
        problems: list[Problem] = []
        parse = self.parser()
        for number, row in enumerate(islice(self.rows(document(path)), limit), 1):
            name = _name(row, number)
            try:
                record = _record(parse, row, name, records)
            except EditError as error:
                problems += [Problem(path, number, name, fault) for fault in error.faults]
            else:
                records[record.id] = record
        if not records and not problems:
            raise EditFileError(f"{path}: holds no records; expected those of {self.name}: {self.about}")
        return Reading(tuple(records.values()), tuple(problems))


def _record(parse: Parse, row: object, name: str, taken: Mapping[str, BenchmarkRecord]) -> BenchmarkRecord:
    if not isinstance(row, dict):
        raise EditError([Fault("", f"found {describe(row)}; expected an object {{...}} of fields")])
    try:
        record = parse(row, name)
    except ValidationError as error:  # of a prompt or an answer that no tokenizer can read
        raise EditError(faults_of(error, BenchmarkRecord)) from None
    if record.id in taken:
        raise EditError([Fault("id", f"{record.id!r} is the id of an earlier record too; give it another")])
    return record


def _name(row: object, number: int) -> str:
    """What the row is called by its own file, or by its place in it."""
    own = [row[field] for field in ("case_id", "ex_id", "id") if field in row] if isinstance(row, dict) else []
    return str(own[0]) if own and isinstance(own[0], str | int) and str(own[0]).strip() else f"row-{number}"

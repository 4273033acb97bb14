"""Read a benchmark file into records, from JSON, JSON lines, a table or a hub's data set; faults name its place."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from kg_common import json_text
from kg_common.errors import EditRowError
from kg_common.rows import RowFault, raw_rows
from kg_edit.edits.files import LabelSource
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.edits.templates import utf8_text
from kg_edit.errors import EditError, EditFileError, Fault, describe, faults_of
from kg_edit.storage.packaged import HUB, benchmark_hint, packaged_benchmark

RawRecord = Mapping[str, Any]
_TABLES = (".csv", ".tsv")
_OWN_EDITS_HINT = ", or a table of own edits: --dataset edits"
_ID_FIELDS = ("case_id", "ex_id", "id")  # a row's id is the first of these that it has
Parsed = TypeVar("Parsed")
Parse = Callable[[RawRecord, str], BenchmarkRecord]


def every_row(document: object) -> Iterable[object]:
    """Return the rows of a list; any other document is one row."""
    return document if isinstance(document, list) else [document]


def parsed_rows(path: Path, parse: Callable[[Any, str], Parsed]) -> Iterator[Parsed]:
    """Yield ``parse(row, number)`` of each row of a JSON file: a row is any JSON value, the number a text."""
    for number, row in enumerate(every_row(read_document(path)), 1):
        try:
            yield parse(row, str(number))
        except EditError as error:
            raise EditFileError(f"{path}, record {number}, {error.faults[0]}") from None


def read_document(path: Path, *, tables: bool = False, table_hint: str = "") -> object:
    """Read the JSON of a file, of a packaged benchmark (by name) or of a hub data set ``hf:NAME[:CONFIG[:SPLIT]]``.

    Args:
        path: the file, or one of these names. JSON lines are returned as a list.
        tables: read CSV and TSV too, where a row that can't be read is a `RowFault`; else such a file is refused.
        table_hint: what the message of such a refusal adds.
    """
    name = str(path)
    if name.startswith(HUB):
        return _read_hub(name.removeprefix(HUB))
    path = packaged_benchmark(path) or path
    hint = benchmark_hint(path)
    if hint:
        raise EditFileError(f"{path}: no such file, and no packaged data of this name{hint}")
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path's, it never raises
        raise EditFileError(f"{path}: is a folder; give the path of a file in it")
    if not _is_table(path):
        return _read_json(path)
    if not tables:
        raise EditFileError(f"{path}: is a table; expected JSON or JSON lines{table_hint}")
    return _read_table(path)


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in _TABLES


def _read_table(path: Path) -> list[object]:
    try:
        return [row.value for row in raw_rows(path)]
    except EditRowError as error:
        where = f", {error.position}" if error.position else ""
        raise EditFileError(f"{path}{where}: {error.problem}") from None


def _read_json(path: Path) -> object:
    text = utf8_text(path)
    try:
        return json_text.parse(text, most=len(text))
    except json.JSONDecodeError as error:
        has_more_values = error.msg == "Extra data"  # after the first one, as JSON lines have
        if not has_more_values:
            raise EditFileError(f"{path}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    except ValueError as error:  # nested too deeply, or a number of too many digits
        raise EditFileError(f"{path}: can't be read: {error}") from None
    return _read_json_lines(path, text)


def _read_json_lines(path: Path, text: str) -> list[object]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines(): JSON texts may hold U+2028
        if not line.strip():
            continue
        try:
            rows.append(json_text.parse(line, most=len(line)))
        except json.JSONDecodeError as fault:
            raise EditFileError(f"{path}, line {number}, column {fault.colno}: not JSON: {fault.msg}") from None
        except ValueError as fault:
            raise EditFileError(f"{path}, line {number}: can't be read: {fault}") from None
    return rows


def _read_hub(name: str) -> list[object]:
    """Return the rows of a data set of a hub; ``name`` is NAME[:CONFIG[:SPLIT]]."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise EditFileError(
            f"{HUB}{name}: a data set from a hub needs the package datasets: pip install 'kg-edit[hf]'"
        ) from error
    dataset, _, rest = name.partition(":")
    config, _, split = rest.partition(":")  # a split may be train[:100]
    try:
        rows = load_dataset(dataset, config or None, split=split or "train")
    except Exception as error:  # the datasets library passes on errors of many other libraries
        raise EditFileError(
            f"{HUB}{name}: can't be loaded: {error}; expected {HUB}NAME[:CONFIG[:SPLIT]], where the default "
            "split is train"
        ) from error
    return [_without_null(dict(row)) for row in rows]


def _without_null(value: Any) -> Any:
    """Remove null fields: the tables of a hub have each field in each row, null where the original row lacks it."""
    if isinstance(value, dict):
        return {name: _without_null(part) for name, part in value.items() if part is not None}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_without_null(part) for part in value]
    return value


class Problem(NamedTuple):
    """Why a row of a benchmark file can't be read as a record."""

    file: Path
    row: int  # from 1
    id: str
    fault: Fault
    line: str = ""  # such as "line 3", where a message names that in the place of the row

    @property
    def message(self) -> str:
        """The fault and its place in the file."""
        return f"{self.line or f'record {self.row}'}, {self.fault}"

    def __str__(self) -> str:
        return f"{self.file}, {self.message}"


@dataclass(frozen=True)
class FileContent:
    """The content of a file: its records, and the faults of the rows that can't be read."""

    records: tuple[BenchmarkRecord, ...]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A benchmark, and how to read its published file.

    ``dataset(path)`` reads the file and fails at a fault; `read` skips rows with faults and reports them.

    Attributes:
        name: its name on the command line.
        about: its content and its publication.
        measures: the groups of probes that its records may have.
        edits_have: the optional parts that its edits may have: target_true, paraphrases, neighborhood, questions.
        parser: returns the function that turns a row and its name into a record; called once for each file.
        rows: returns the rows of a JSON document.
        tables: whether its published files may be tables, CSV or TSV, with a header.
        other: the benchmark that reads the same files with another target.
        precedence: decides between benchmarks that can read a file equally well, if the user names none: the higher
            number wins (`kg_edit.evaluation.datasets.guess_dataset`).
    """

    name: str
    about: str
    measures: tuple[str, ...]
    parser: Callable[[], Parse]
    edits_have: tuple[str, ...] = ()
    rows: Callable[[object], Iterable[object]] = every_row
    tables: bool = False
    other: str = ""
    precedence: int = 0

    def __call__(
        self, path: str | Path, *, limit: int | None = None, labels: LabelSource | None = None
    ) -> tuple[BenchmarkRecord, ...]:
        """Return the records in the file's order; the arguments are those of `read`.

        Raises:
            EditFileError: the file can't be read, or a record is wrong; the message lists the first faults, and the
                benchmark that the file looks like if none of its first rows is a record of this one.
        """
        content = self.read(path, limit=limit, labels=labels)
        if content.problems:
            from kg_edit.evaluation.datasets import faulty_file  # it tries all data sets, which are made of this module

            raise faulty_file(self.name, path, content.problems, way="find_dataset('{}') reads it")
        return content.records

    def read(
        self,
        path: str | Path,
        *,
        limit: int | None = None,
        labels: LabelSource | None = None,
        reader: Callable[..., object] = read_document,
    ) -> FileContent:
        """Return the records of a file; rows with faults are left out and reported.

        Args:
            path: the file, a packaged benchmark's name, or ``hf:NAME``.
            limit: the number of rows to read; None: all.
            labels: the source of the labels of ids, for rows that may have ids in the place of names (own edits).
            reader: `read_document`, or a cache of it where several data sets read one file.

        Raises:
            EditFileError: the file can't be read at all, or has no rows.
        """
        path = Path(path)
        # by suffix, so that a cache of `reader` reads a JSON file once for benchmarks with and without tables
        reads_table = self.tables and _is_table(path)
        content = reader(path, tables=reads_table, table_hint=_OWN_EDITS_HINT)
        parse = self.parser()
        records: list[BenchmarkRecord] = []
        problems: list[Problem] = []
        numbers: dict[str, int] = {}  # id of a record -> number of its row
        for number, row in enumerate(islice(self.rows(content), limit), 1):
            name = _row_name(row, number)
            try:
                record = parse(_check_row(row), name)
                first = numbers.setdefault(record.id, number)
                if first != number:
                    fault = Fault("id", f"{record.id!r} is the id of record {first} too; give it another")
                    raise EditError([fault])
                records.append(record)
            except EditError as error:
                problems += [Problem(path, number, name, fault) for fault in error.faults]
            except ValidationError as error:  # a prompt or an answer that no tokenizer can read
                problems += [Problem(path, number, name, fault) for fault in faults_of(error, BenchmarkRecord)]
        if not records and not problems:
            raise EditFileError(f"{path}: has no records; expected records of {self.name}: {self.about}")
        return FileContent(tuple(records), tuple(problems))


def _row_name(row: object, number: int) -> str:
    """Return the id that a row has, or else its number as a name."""
    numbered = f"row-{number}"
    if not isinstance(row, dict):
        return numbered
    fields = [field for field in _ID_FIELDS if field in row]
    if not fields:
        return numbered
    own = row[fields[0]]
    is_name = isinstance(own, str | int) and str(own).strip()
    return str(own) if is_name else numbered


def _check_row(row: object) -> RawRecord:
    """Return a row that is an object of fields; any other row has a fault."""
    if isinstance(row, RowFault):
        raise EditError([Fault(*row)])
    if not isinstance(row, dict):
        raise EditError([Fault("", f"found {describe(row)}; expected an object {{...}} of fields")])
    return row

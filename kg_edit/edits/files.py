"""Read files of edits (JSONL, JSON, CSV and TSV), and write them as JSONL.

`read_edits` accepts rows of three shapes (see `kg_edit.edits.rows`), and names the line and the field of each fault.
`wikidata_cache.row_files` reads the raw rows; `numbered_rows` passes these unchecked rows to other readers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from kg_edit.edits.aliases import ALIASES, LISTS
from kg_edit.edits.edit import Edit
from kg_edit.edits.rows import FIELDS, Row, ids_to_label, to_edit
from kg_edit.edits.templates import RelationTemplates
from kg_edit.errors import ConfigError, EditError, EditFileError, Fault, OutputError, describe, did_you_mean
from kg_edit.storage.atomic import write_text
from wikidata_cache.errors import EditRowError
from wikidata_cache.row_files import RowFault, raw_rows

# The number of a row, and its content: any JSON value, or the error if the row could not be read.
NumberedRow = tuple[int, object]

_SHAPES = (
    ("subject", "prompt", "target_new"),
    ("subject", "relation", "new_object"),
    ("subject", "relation", "target_new"),
    ("subject", "prompt", "new_object"),
)
_IN_TABLES = {name: own for name, own in ALIASES.items() if own != "portability"}
_COLUMNS = tuple(name for name in FIELDS if name != "portability")  # questions do not fit into a cell
_TABLES = (".csv", ".tsv")
_TRUTH = {"true": True, "false": False}  # values of the field chat in a table, besides "both"

_Taken = dict[tuple[str, ...], tuple[int, Edit]]  # a key from `_claims` -> the row number and the edit

log = logging.getLogger(__name__)


class LabelSource(Protocol):
    """Any object that knows the labels of Wikidata ids, such as `wikidata_cache.WikidataCache`."""

    def labels(self, ids: Sequence[str], /) -> Mapping[str, str]:
        """Return the labels of those `ids` that have one."""


class RowProblem(NamedTuple):
    """Why a row can't be read as an edit: the file, the row, the field and its fault."""

    file: Path
    row: int  # the line of the file; in .json, where lines mean nothing, the position in the list, from 1
    fault: Fault

    def __str__(self) -> str:
        return f"{self.file}, {unit_of(self.file)} {self.row}, {self.fault}"


@dataclass(frozen=True)
class EditFile:
    """The edits of a file, and the faults of the rows that were skipped."""

    edits: tuple[Edit, ...]
    problems: tuple[RowProblem, ...] = ()


def read_edits(
    path: Path | str,
    *,
    labels: LabelSource | None = None,
    templates: RelationTemplates | None = None,
    keep_going: bool = False,
    allow_conflicts: bool = False,
) -> EditFile:
    """Read the edits of a .jsonl, .json, .csv or .tsv file, in the file's order.

    Rows are edits, triplets or CounterFact records (see `kg_edit.edits.rows`). In CSV and TSV, " | " separates the
    entries of paraphrases and neighborhood, and an empty cell means that the field is absent.

    Args:
        path: the file, in UTF-8.
        labels: the source of the labels of ids in triplets; it is asked once for the whole file.
        templates: relation templates for triplets without a prompt; by default the packaged ones.
        keep_going: skip wrong rows, and report them in `problems`.
        allow_conflicts: accept rows that edit one fact to different targets, for a caller that makes each edit alone.

    Raises:
        EditFileError: the file can't be read, or has no good row, or (without `keep_going`) has a bad row.
    """
    path, templates = Path(path), templates or RelationTemplates.load()
    rows = list(numbered_rows(path))
    if not rows:
        raise EditFileError(f"{path}: has no rows; expected one edit or triplet per row")
    known = _known_labels(rows, labels, templates)
    make = partial(to_edit, labels=known, templates=templates)
    found = _edits_in(rows, path, make, allow_conflicts=allow_conflicts)
    if found.problems and not (keep_going and found.edits):
        raise EditFileError(_refusal(found.problems, keep_going=keep_going))
    log.info(
        "%s: read %s, skipped %s", path, _count(len(found.edits), "edit"), _count(len(rows) - len(found.edits), "row")
    )
    return found


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'s' * (number != 1)}"


def _edits_in(rows: Iterable[NumberedRow], path: Path, make: Callable[..., Edit], *, allow_conflicts: bool) -> EditFile:
    """The edits that ``make`` makes of the rows, and the faults of the other rows; warns of rows that say the same."""
    edits: list[Edit] = []
    problems: list[RowProblem] = []
    taken: _Taken = {}
    repeated: list[tuple[int, int]] = []
    for number, row in rows:
        try:
            edit = make(_fields(row), row_id=f"row-{number}")
            _refuse_clash(edit, taken, unit_of(path), allow_conflicts=allow_conflicts)
        except EditError as error:
            problems += [RowProblem(path, number, fault) for fault in error.faults]
        else:
            edits.append(edit)
            if again := taken.get(_claims(edit)[1]):
                repeated.append((number, again[0]))
            taken |= dict.fromkeys(_claims(edit), (number, edit))
    if repeated and not allow_conflicts:
        number, first = repeated[0]
        unit, more = unit_of(path), f" ({len(repeated) - 1} more such rows)" if len(repeated) > 1 else ""
        log.warning("%s: %s %d is the edit of %s %d again%s; it is made twice", path, unit, number, unit, first, more)
    return EditFile(tuple(edits), tuple(problems))


def check_writable_name(path: Path) -> None:
    """Check the name of a file that `write_edits` is to write.

    Raises:
        OutputError: it does not end in .jsonl.
    """
    if path.suffix.lower() != ".jsonl":
        raise OutputError(f"{path}: edits are written as JSON lines; give a name that ends in .jsonl")


def write_edits(path: Path | str, edits: Iterable[Edit]) -> None:
    """Write edits as JSONL that `read_edits` reads back. The file is replaced atomically, so it is never half-written.

    Raises:
        OutputError: `path` does not end in .jsonl or cannot be written.
    """
    path = Path(path)
    check_writable_name(path)
    rows = (edit.model_dump(mode="json", exclude_defaults=True) for edit in edits)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(path, text)


def in_form(edits: Iterable[Edit], chat: bool | None, *, both: bool = False) -> tuple[Edit, ...]:
    """Set the form of the edits: ``chat`` (true, false, or None to keep the rows' own form), or ``both``.

    Raises:
        ConfigError: the caller asks for one form and for both.
    """
    if both and chat is not None:
        raise ConfigError(f"found both forms and only {'chat' if chat else 'plain text'}; keep one of the options")
    wanted: bool | Literal["both"] | None = "both" if both else chat
    return tuple(edits) if wanted is None else tuple(edit.in_chat(chat=wanted) for edit in edits)


def numbered_rows(path: Path) -> Iterator[NumberedRow]:
    """Yield the rows of a file with their numbers. A row that can't be read is yielded as an `EditError`.

    Raises:
        EditFileError: the file can't be read at all, or its header is wrong.
    """
    try:
        rows = raw_rows(path, header_fault=_header_fault)
    except EditRowError as error:
        place = f", {error.place}" if error.place else ""
        raise EditFileError(f"{path}{place}: {error.problem}") from None
    for row in rows:
        yield row.line, _value(row.value, in_table=path.suffix.lower() in _TABLES)


def check_file(path: Path) -> None:
    """Check early that a file of edits exists and is in a format that can be read; only the first row is read.

    Raises:
        EditFileError: the file can't be read at all, or its header is wrong.
    """
    next(numbered_rows(path), None)


def _header_fault(header: Sequence[str]) -> str | None:
    if unknown := [name for name in header if name not in (*_COLUMNS, *_IN_TABLES)]:
        near = did_you_mean(unknown[0], _COLUMNS)
        if len(unknown) == len(header) and not near:
            wanted = ", ".join(_SHAPES[0])
            return f"no name of a column ({unknown[0]!r}, …); the first line must be a header, such as {wanted}"
        return f"unknown column {unknown[0]!r}{near}; known: {', '.join(_COLUMNS)}"
    if len(set(header)) < len(header):
        return f"a column occurs twice in the header: {', '.join(header)}; keep one of each"
    lacking = min(([name for name in shape if name not in header] for shape in _SHAPES), key=len)
    shapes = " or ".join(", ".join(shape) for shape in _SHAPES[:2])
    return f"lacks the column {lacking[0]!r}; expected at least {shapes}" if lacking else None


def _value(value: object, *, in_table: bool) -> object:
    if isinstance(value, RowFault):
        return EditError([Fault(*value)])
    if in_table and isinstance(value, dict):
        return {name: _cell(str(_IN_TABLES.get(name, name)), cell) for name, cell in value.items()}
    return value


def _cell(field: str, cell: Any) -> object:
    if field in LISTS:
        return _entries(cell)
    return _TRUTH.get(str(cell).strip().lower(), cell) if field == "chat" else cell


def _entries(cell: str) -> list[str]:
    return [entry.strip() for entry in cell.split(" | ")]


def unit_of(path: Path) -> str:
    """What the number of a row counts: lines, or in .json, where lines mean nothing, positions in the list."""
    return "record" if path.suffix.lower() == ".json" else "line"


def _known_labels(
    rows: Iterable[NumberedRow], labels: LabelSource | None, templates: RelationTemplates
) -> Mapping[str, str]:
    wanted: set[str] = set()
    for _, row in rows:
        wanted |= ids_to_label(row, templates) if isinstance(row, dict) else set()
    return labels.labels(sorted(wanted)) if labels and wanted else {}


def _fields(row: object) -> Row:
    if isinstance(row, EditError):
        raise row
    if not isinstance(row, dict):
        raise EditError([Fault("", f"found {describe(row)}; expected an object {{...}} of fields")])
    return {name: value for name, value in row.items() if value is not None}


def _claims(edit: Edit) -> tuple[tuple[str, ...], ...]:
    """The keys that an edit claims in its file: its id and its fact. Edits with the same target may share a fact."""
    return ("id", edit.id), ("fact", edit.subject, edit.prompt)


def _refuse_clash(edit: Edit, taken: _Taken, unit: str, *, allow_conflicts: bool) -> None:
    same_id, same_fact = map(taken.get, _claims(edit))
    if same_id:
        raise EditError([Fault("id", f"{edit.id!r} is the id of {unit} {same_id[0]} too; give it another")])
    if same_fact and same_fact[1].target_new != edit.target_new and not allow_conflicts:
        here, there = f"{edit.target_new!r} here", f"{same_fact[1].target_new!r} in {unit} {same_fact[0]}"
        message = f"{edit.text!r} is edited to {here} and to {there}; keep one of the two"
        raise EditError([Fault("target_new", message)])


def _refusal(problems: Sequence[RowProblem], *, keep_going: bool) -> str:
    if keep_going:
        return "no row can be used:\n" + "\n".join(map(str, problems))
    others = f" ({len(problems) - 1} more such faults in the file)" if len(problems) > 1 else ""
    return f"{problems[0]}{others}"

"""Read files of edits (JSONL, JSON, CSV and TSV), and write them as JSONL.

`read_edits` accepts rows of three shapes (see `kg_edit.edits.rows`), and names the line and the field of each fault.
`kg_common.rows` reads the raw rows; `numbered_rows` passes these unchecked rows to other readers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from textwrap import fill, indent
from typing import NamedTuple, Protocol, runtime_checkable

from kg_common.errors import EditRowError
from kg_common.rows import RowFault, entries, raw_rows
from kg_common.terminal import number_of
from kg_edit.edits.aliases import ALIASES, ANSWER_COLUMN, LISTS, LOCALITY_COLUMNS
from kg_edit.edits.edit import Edit, without_repeats
from kg_edit.edits.rows import FIELDS, MADE_UP, ids_to_label, language_of, to_edit
from kg_edit.edits.templates import RelationTemplates
from kg_edit.errors import (
    ConfigError,
    EditError,
    EditFileError,
    Fault,
    OutputError,
    describe,
    did_you_mean,
    first_faults,
)
from kg_edit.languages import ENGLISH
from kg_edit.storage.atomic import write_text
from kg_edit.storage.notebook import html_table

# The number of a row, and its content: any JSON value, or the error if the row could not be read. The error is raised
# when the row is used (`_check_object`), so that the rows behind it are read too.
NumberedRow = tuple[int, object | EditError]

_SHAPES = (
    ("subject", "prompt", "target_new"),
    ("subject", "relation", "new_object"),
    ("subject", "relation", "target_new"),
    ("subject", "prompt", "new_object"),
    ("prompt", "target_text"),
)
_TABLES = (".csv", ".tsv")
# The columns of a table are the fields of a row, under all their names. Questions do not fit into a cell.
_COLUMNS = (*(name for name in FIELDS if name != "portability"), ANSWER_COLUMN)
_COLUMN_ALIASES = {name: field for name, field in ALIASES.items() if field != "portability"}
_LIST_COLUMNS = (*LISTS, "locality", ANSWER_COLUMN, *LOCALITY_COLUMNS)  # those whose cells have several entries
_CHAT_CELLS = {"true": True, "false": False}  # values of the column chat, besides "both"

log = logging.getLogger(__name__)


class LabelSource(Protocol):
    """Any object that knows the labels of Wikidata ids, such as `wikidata_cache.WikidataCache`.

    If it has an attribute ``about``, a text that says what it is, errors name it.
    """

    def labels(self, ids: Sequence[str], /) -> Mapping[str, str]:
        """Return the labels of those `ids` that have one."""


@runtime_checkable
class MultilingualSource(LabelSource, Protocol):
    """A source of labels in several languages."""

    def in_language(self, language: str, /) -> LabelSource:
        """Return the source of the labels in a language; an id without one has another label, such as the English."""


class RowProblem(NamedTuple):
    """Why a row can't be read as an edit: the file, the row, the field and its fault.

    ``number`` is the row's line in the file; in .json, where lines mean nothing, its position in the list, from 1.
    ``ordinal`` counts the rows alone, from 1, without blank lines and a table's header.
    """

    file: Path
    number: int
    fault: Fault
    ordinal: int

    def __str__(self) -> str:
        return f"{self.file}, {unit_of(self.file)} {self.number}, {self.fault}"


@dataclass(frozen=True)
class EditFile:
    """The edits of a file, and the faults of the rows that were skipped. It has a length, and iterates over the edits.

    Attributes:
        edits: the edits, in the file's order.
        problems: why rows were skipped.
    """

    edits: tuple[Edit, ...]
    problems: tuple[RowProblem, ...] = ()

    def __iter__(self) -> Iterator[Edit]:
        return iter(self.edits)

    def __len__(self) -> int:
        return len(self.edits)

    def __repr__(self) -> str:
        rows = {problem.number for problem in self.problems}
        skipped = f", {number_of(len(rows), 'row')} skipped" if rows else ""
        return f"EditFile({number_of(len(self), 'edit')}{skipped})"

    def _repr_html_(self) -> str:
        rows = [(edit.id, edit.text, edit.target_true or "", edit.target_new) for edit in self.edits]
        return html_table(repr(self), ("id", "prompt", "target_true", "target_new"), rows)


def read_edits(
    path: Path | str,
    *,
    labels: LabelSource | None = None,
    templates: RelationTemplates | None = None,
    keep_going: bool = False,
    allow_conflicts: bool = False,
    language: str = ENGLISH,
) -> EditFile:
    """Read the edits of a .jsonl, .json, .csv or .tsv file, in the file's order.

    Rows are edits, triplets or CounterFact records (see `kg_edit.edits.rows`). In CSV and TSV, " | " separates the
    entries of a list, ``locality_answer`` has the answers of ``locality``, and an empty cell means that the field is
    absent.

    Args:
        path: the file, in UTF-8.
        labels: the source of the labels of ids in triplets; it is asked once for each language in the file.
        templates: relation templates for triplets without a prompt; by default the packaged ones.
        keep_going: skip wrong rows, and report them in `problems`.
        allow_conflicts: accept rows that edit one fact to different targets, for a caller that makes each edit alone.
        language: that of rows without the field ``language``.

    Raises:
        EditFileError: the file can't be read, or has no good row, or (without `keep_going`) has a bad row.
    """
    if not isinstance(path, str | Path):
        raise EditFileError(f"found {describe(path)}; expected the path of a file of edits")
    file = read_rows(Path(path), labels=labels, templates=templates, allow_conflicts=allow_conflicts, language=language)
    if file.problems and not keep_going:
        raise EditFileError(first_faults(file.problems))
    if file.problems and not file.edits:
        raise EditFileError(f"no row can be used:\n{first_faults(file.problems)}")
    _log_counts(path, file)
    return file


def _log_counts(path: Path | str, file: EditFile) -> None:
    """Log how many edits were read, and how many rows were skipped.

    An edit that several rows have is counted once here, because methods make it once; it stays in ``file`` as often.
    """
    different, repeats = without_repeats(file.edits)
    read = number_of(len(different), "edit")
    if repeats:
        rows = number_of(len(file.edits), "row")
        verb = "repeats" if len(repeats) == 1 else "repeat"
        read += f" in {rows}, of which {len(repeats)} {verb} an earlier one"
    skipped = len({problem.number for problem in file.problems})
    log.info("%s: read %s, skipped %s", path, read, number_of(skipped, "row"))


def read_rows(
    path: Path,
    *,
    labels: LabelSource | None = None,
    templates: RelationTemplates | None = None,
    allow_conflicts: bool = False,
    limit: int | None = None,
    language: str = ENGLISH,
) -> EditFile:
    """Read the rows of a file as `read_edits`; wrong rows are only reported in `problems`, even if all are wrong.

    Rows that can be used but look odd are warned of in the log.

    Args:
        path: the file, in UTF-8.
        labels: the source of the labels of ids in triplets.
        templates: relation templates for triplets without a prompt; by default the packaged ones.
        allow_conflicts: accept rows that edit one fact to different targets.
        limit: the number of rows to read; None: all.
        language: that of rows without the field ``language``.
    """
    templates = templates or RelationTemplates.load()
    rows = list(islice(numbered_rows(path), limit))
    if not rows:
        raise EditFileError(f"{path}: has no rows; expected one edit or triplet per row")

    # The labels come first, because the graph is asked for all ids of a language at once.
    graph_labels = _look_up_labels(rows, labels, templates, language)
    edits: list[Edit] = []
    problems: list[RowProblem] = []
    earlier = _EarlierRows(unit_of(path))
    oddities = _Oddities(unit_of(path))
    for ordinal, (number, row) in enumerate(rows, 1):
        try:
            fields = _check_object(row)
            edit = _read_row(fields, ordinal, graph_labels, templates, language)
            earlier.check(edit, allow_conflicts=allow_conflicts)
        except EditError as error:
            problems += [RowProblem(path, number, fault, ordinal) for fault in error.faults]
            continue
        oddities.note_made_up_prompt(number, edit, fields, templates)
        oddities.note_paraphrase(number, edit)
        if not allow_conflicts:  # with conflicts, each edit is made alone, so a repeated one is not odd
            oddities.note_repeat(number, edit, earlier.find(edit))
        edits.append(edit)
        earlier.add(number, edit)
    oddities.warn(path)
    return EditFile(tuple(edits), tuple(problems))


class _GraphLabels(NamedTuple):
    """The labels of the ids in a file, by language, and the graph that has them, in words.

    ``graph`` is "" if no labels were asked for. For several languages it is the text that the last source gave; all are
    one graph.
    """

    by_language: Mapping[str, Mapping[str, str]]
    graph: str


def _look_up_labels(
    rows: Sequence[NumberedRow], labels: LabelSource | None, templates: RelationTemplates, default: str
) -> _GraphLabels:
    """Ask the graph for the labels of all ids in ``rows``, once for each language.

    ``default`` is the language of the rows that name none.
    """
    ids: dict[str, set[str]] = {}  # by language
    for _, row in rows:
        if isinstance(row, dict):
            language = language_of(row, default)
            ids.setdefault(language, set()).update(ids_to_label(row, templates, language=language))
    by_language: dict[str, Mapping[str, str]] = {}
    graph = ""
    for language, needed in ids.items():
        if labels and needed:
            source = source_in(labels, language)
            by_language[language] = source.labels(sorted(needed))
            graph = getattr(source, "about", "")
    return _GraphLabels(by_language, graph)


def _read_row(
    fields: Mapping[str, object], ordinal: int, labels: _GraphLabels, templates: RelationTemplates, default: str
) -> Edit:
    """Return the edit of a row; ``default`` is the language of a row that names none."""
    return to_edit(
        fields,
        # The id of an edit without one has the ordinal, because the line of an edit differs between a table and the
        # JSON lines that `wikidata-cache link` makes of it.
        row_id=f"row-{ordinal}",
        labels=labels.by_language.get(language_of(fields, default), {}),
        templates=templates,
        looked_in=labels.graph,
        language=default,
    )


def source_in(labels: LabelSource, language: str) -> LabelSource:
    """Return a source of labels in a language: its ``in_language(code)``, or itself if it has no other languages."""
    if isinstance(labels, MultilingualSource):
        return labels.in_language(language)
    return labels


def _check_object(row: object) -> dict[str, object]:
    """Return the fields of a row; raise the error of one that could not be read or is not an object."""
    if isinstance(row, EditError):
        raise row
    if not isinstance(row, dict):
        raise EditError([Fault("", f"found {describe(row)}; expected an object {{...}} of fields")])
    return row


class _EarlierRows:
    """The edits of the rows so far: an id belongs to one row, and a fact (subject and prompt) to one target.

    The form does not count: a later --chat or --plain gives all edits the same form.
    """

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._by_id: dict[str, int] = {}  # the row's number
        self._by_fact: dict[tuple[str, str], tuple[int, Edit]] = {}  # the number and edit of the fact's last row

    def add(self, number: int, edit: Edit) -> None:
        """Add the edit of row ``number``."""
        self._by_id[edit.id] = number
        self._by_fact[edit.subject, edit.prompt] = (number, edit)

    def find(self, edit: Edit) -> tuple[int, Edit] | None:
        """Return the last row of the same fact, its number and its edit."""
        return self._by_fact.get((edit.subject, edit.prompt))

    def check(self, edit: Edit, *, allow_conflicts: bool) -> None:
        """Refuse an edit with the id of an earlier one, or with another target for its fact."""
        if edit.id in self._by_id:
            number = self._by_id[edit.id]
            raise EditError([Fault("id", f"{edit.id!r} is the id of {self._unit} {number} too; give it another")])
        found = self.find(edit)
        if found is None or allow_conflicts:
            return
        number, other = found
        if other.target_new != edit.target_new:
            here = f"{edit.target_new!r} here"
            there = f"{other.target_new!r} in {self._unit} {number}"
            message = f"{edit.text!r} is edited to {here} and to {there}; keep one of the two"
            raise EditError([Fault("target_new", message)])


class _Oddities:
    """What is odd in rows that can be used, of three kinds: what was found, and what to do about it."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._made_up_prompts: list[tuple[str, str]] = []
        self._paraphrases: list[tuple[str, str]] = []
        self._repeats: list[tuple[str, str]] = []

    def note_made_up_prompt(
        self, number: int, edit: Edit, fields: Mapping[str, object], templates: RelationTemplates
    ) -> None:
        """Note a prompt that is only made of the relation's label."""
        template = templates.find(edit.relation_id) or templates.find(edit.relation)
        if template or fields.get("prompt") or edit.prompt != MADE_UP.format(edit.relation):
            return
        found = f"there is no template for the relation {edit.relation!r}, so the prompt is {edit.text!r}"
        way = (
            "if it reads badly, give the row a prompt, or give `kg-edit edit` a file with a template: --templates FILE"
        )
        self._made_up_prompts.append((f"{self._unit} {number}: {found}", way))

    def note_paraphrase(self, number: int, edit: Edit) -> None:
        """Note the first paraphrase without the subject."""
        without_subject = [text for text in edit.paraphrases if edit.subject.lower() not in text.lower()]
        if without_subject:
            found = (
                f"the paraphrase {without_subject[0]!r} does not contain the subject {edit.subject!r}, and is asked "
                "as it is"
            )
            self._paraphrases.append((f"{self._unit} {number}: {found}", "write the subject into it"))

    def note_repeat(self, number: int, edit: Edit, earlier: tuple[int, Edit] | None) -> None:
        """Note an edit whose fact an ``earlier`` row has too; of two equal edits only one is made."""
        if earlier is None:
            return
        earlier_number, other = earlier
        is_equal = edit.model_copy(update={"id": other.id}) == other
        times = "once" if is_equal else "twice"
        found = f"{self._unit} {number} is the edit of {self._unit} {earlier_number} again"
        self._repeats.append((found, f"it is made {times}"))

    def warn(self, path: Path) -> None:
        """Write one warning of each kind, with its first row."""
        for oddities in (self._made_up_prompts, self._paraphrases, self._repeats):
            if not oddities:
                continue
            (found, way), *others = oddities
            more = f" ({len(others)} more such rows)" if others else ""
            log.warning("%s: %s%s; %s", path, found, more, way)


def check_writable_name(path: Path) -> None:
    """Check the name of a file that `write_edits` is to write."""
    if path.suffix.lower() != ".jsonl":
        raise OutputError(f"{path}: edits are written as JSON lines; give a name that ends in .jsonl")


def write_edits(path: Path | str, edits: Iterable[Edit]) -> None:
    """Write edits as JSONL that `read_edits` reads back. The file is replaced atomically."""
    path = Path(path)
    check_writable_name(path)
    lines = list[str]()
    for edit in edits:
        row = edit.model_dump(mode="json", exclude_defaults=True)
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def in_form(edits: Iterable[Edit], chat: bool | None, *, both: bool = False) -> tuple[Edit, ...]:
    """Set the form of the edits: ``chat`` (true, false, or None for the rows' own form), or ``both``."""
    if both and chat is not None:
        form = "chat form (CLI: --chat or --edit-chat)" if chat else "plain text (CLI: --plain or --edit-plain)"
        raise ConfigError(f"found both forms (CLI: --both-forms) and only {form}; keep one of the two")
    if both:
        return tuple(edit.with_form(chat="both") for edit in edits)
    if chat is None:
        return tuple(edits)
    return tuple(edit.with_form(chat=chat) for edit in edits)


def numbered_rows(path: Path) -> Iterator[NumberedRow]:
    """Yield the rows of a file with their numbers. A row that can't be read is yielded as an `EditError`."""
    try:
        rows = raw_rows(path, header_fault=_header_fault)
    except EditRowError as error:
        where = f", {error.position}" if error.position else ""
        raise EditFileError(f"{path}{where}: {error.problem}") from None
    in_table = path.suffix.lower() in _TABLES
    for row in rows:
        value = row.value
        if isinstance(value, RowFault):
            yield row.line, EditError([Fault(value.field, value.message)])
        elif in_table and isinstance(value, dict):
            yield row.line, _fields_of(value)
        else:
            yield row.line, value


def check_file(path: Path) -> None:
    """Check early that a file of edits exists and can be parsed; the fields of its rows are not checked.

    The whole file is parsed, and again by `read_edits`. It takes less time than what comes between the two.
    """
    next(numbered_rows(path), None)  # `numbered_rows` parses the file when its first row is asked for


def _header_fault(header: Sequence[str]) -> str | None:
    """Return what is wrong with the names of a table's columns, or None."""
    unknown = [name for name in header if name not in (*_COLUMNS, *_COLUMN_ALIASES, *LOCALITY_COLUMNS)]
    if unknown:
        return _describe_unknown(unknown[0], no_other=len(unknown) == len(header))
    # Of the shapes that a row may have, the one counts that lacks the fewest columns.
    lacking = list[list[str]]()
    for shape in _SHAPES:
        lacking.append([name for name in shape if name not in header])
    fewest = min(lacking, key=len)
    if fewest:
        edit = ", ".join(_SHAPES[0])
        triplet = ", ".join(_SHAPES[1])
        return f"lacks the column {fewest[0]!r}; expected at least {edit} or {triplet}"
    return None


def _describe_unknown(column: str, *, no_other: bool) -> str:
    """Return what is wrong with the name of an unknown column; ``no_other``: the header has no known one either."""
    if ALIASES.get(column, column) == "portability":
        return f"the column {column!r}: questions with answers do not fit into a cell; write the rows as .jsonl"
    near = did_you_mean(column, _COLUMNS)
    if near:
        return f"unknown column {column!r}{near}"
    if no_other:
        names = ", ".join(_SHAPES[0])
        return f"no name of a column ({column!r}, …); the first line must be a header, such as {names}"
    known = indent(fill(", ".join(_COLUMNS), 100), "  ")
    return f"unknown column {column!r}; known:\n{known}"


def _fields_of(cells: Mapping[str, str]) -> dict[str, object]:
    """Return the fields of a table's row from its cells, by column.

    A field keeps the column's own name: `to_edit` renames it, and errors name the user's column. Most fields are the
    cell's text. " | " separates the entries of a list, and ``chat`` is true, false or "both".
    """
    fields = dict[str, object]()
    for column, cell in cells.items():
        field = _COLUMN_ALIASES.get(column, column)
        if field in _LIST_COLUMNS:
            fields[column] = entries(cell)
        elif field == "chat":
            fields[column] = _CHAT_CELLS.get(cell.strip().lower(), cell)
        else:
            fields[column] = cell
    return fields


def unit_of(path: Path) -> str:
    """Return the unit of a row's number: lines, or in .json, where lines mean nothing, positions in the list."""
    return "record" if path.suffix.lower() == ".json" else "line"

"""Relation templates: a table that turns a relation (property id and label) into a prompt with {} for the subject."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple, Self

from kg_common import rows as row_files
from kg_common.errors import EditRowError
from kg_edit.edits.edit import is_property_id
from kg_edit.errors import EditFileError

_PACKAGED = Path("data", "relation_templates.tsv")
_NEAR = 0.84  # difflib's ratio: two swapped letters of ten still match, "father" and "mother" do not
_HEADER = ("property", "label", "template")


class RelationTemplate(NamedTuple):
    """A relation r and its prompt template; `property_id` is empty for a relation outside Wikidata."""

    property_id: str
    label: str
    template: str

    @property
    def names(self) -> set[str]:
        """The names under which the relation is found: its id and its label, in lower case."""
        return {name.casefold() for name in (self.property_id, self.label) if name}


@dataclass(frozen=True)
class RelationTemplates:
    """Relation templates, found by property id or by label."""

    by_name: Mapping[str, RelationTemplate]

    @classmethod
    def load(cls, extra: Path | None = None) -> Self:
        """Read the packaged table. The rows of the file `extra`, if given, are added and take precedence."""
        packaged = files("kg_edit").joinpath(*_PACKAGED.parts).read_text(encoding="utf-8")
        by_name = _read_table(_PACKAGED, packaged)
        if extra:
            by_name |= _read_table(extra, utf8_text(extra))
        return cls(by_name)

    def find(self, relation: str | None) -> RelationTemplate | None:
        """Return the template whose property id or label (in any case) is `relation`, or None."""
        row = self.by_name.get((relation or "").strip().casefold())
        if row is None:
            return None
        # An extra file may give a property another label. Its template is then used for the old label too.
        return self.by_name.get(row.property_id.casefold(), row)

    def near(self, relation: str) -> str | None:
        """Return the label that is almost equal to `relation`, which is then probably misspelt; else None."""
        labels = {row.label.casefold(): row.label for row in self.by_name.values()}
        matches = get_close_matches(relation.strip().casefold(), labels, n=1, cutoff=_NEAR)
        if not matches:
            return None
        return labels[matches[0]]


def utf8_text(file: Path) -> str:
    """Read a UTF-8 text file, with or without a byte order mark."""
    try:
        return row_files.utf8_text(file)
    except EditRowError as error:
        raise EditFileError(str(error)) from None


def _read_table(file: Path, text: str) -> dict[str, RelationTemplate]:
    """Read a table of templates, and return each under all its names; ``file`` is its path, for messages."""
    rows: list[tuple[str, list[str] | row_files.RowFault]] = []  # (file and line, cells)
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        for _, cells in row_files.table_rows([line], "\t"):  # a spreadsheet puts a cell with a comma into quotes
            rows.append((f"{file}, line {number}", cells))
    if not rows or rows[0][1] != [*_HEADER]:
        raise EditFileError(f"{file}: expected a header line with the columns {', '.join(_HEADER)}, separated by tabs")
    table: dict[str, RelationTemplate] = {}
    for where, cells in rows[1:]:
        template = _to_template(where, cells)
        repeated = template.names & table.keys()
        if repeated:
            names = ", ".join(sorted(repeated))
            raise EditFileError(f"{where}: {names}: already has a template on an earlier line; keep one")
        table |= dict.fromkeys(template.names, template)
    return table


def _to_template(where: str, cells: list[str] | row_files.RowFault) -> RelationTemplate:
    """Check the cells of a line and return its template; ``where`` is the file and the line."""
    if isinstance(cells, row_files.RowFault):
        raise EditFileError(f"{where}: {cells.message}")
    if len(cells) != len(_HEADER):
        raise EditFileError(f"{where}: found {len(cells)} cells; expected {len(_HEADER)}, separated by tabs")
    template = RelationTemplate(*cells)
    if template.property_id and not is_property_id(template.property_id):
        expected = "expected an id such as P54, or nothing if it has none"
        raise EditFileError(f"{where}: property: found {template.property_id!r}; {expected}")
    if not template.label:
        raise EditFileError(f"{where}: label: is empty; expected the relation's name")
    if template.template.count("{}") != 1:
        expected = "expected one {} for the subject, as in '{} plays for'"
        raise EditFileError(f"{where}: template: found {template.template!r}; {expected}")
    return template

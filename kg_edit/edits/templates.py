"""The table that turns a relation into a prompt: its property id, its label and a sentence with {}."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple, Self

from kg_edit.edits.edit import is_property_id
from kg_edit.errors import EditFileError
from wikidata_cache import row_files
from wikidata_cache.errors import EditRowError

_PACKAGED = Path("data", "relation_templates.tsv")
_NEAR = 0.84  # of difflib: two letters of ten in another order; "father" is not "mother"
_HEADER = ("property", "label", "template")


class RelationTemplate(NamedTuple):
    """A relation r and the sentence for it; `property_id` is empty for a relation outside Wikidata."""

    property_id: str
    label: str
    template: str

    @property
    def names(self) -> set[str]:
        """The names that the relation is found by: its id and its label, in lower case."""
        return {name.casefold() for name in (self.property_id, self.label) if name}


@dataclass(frozen=True)
class RelationTemplates:
    """Relation templates, found by property id or by label."""

    by_name: Mapping[str, RelationTemplate]

    @classmethod
    def load(cls, extra: Path | None = None) -> Self:
        """Read the packaged table, with the rows of the file `extra` on top where there is one.

        Raises:
            EditFileError: `extra` cannot be read or has a wrong row; names its line.
        """
        packaged = files("kg_edit").joinpath(*_PACKAGED.parts).read_text(encoding="utf-8")
        own = _table(extra, utf8_text(extra)) if extra else {}
        return cls({**_table(_PACKAGED, packaged), **own})

    def find(self, relation: str | None) -> RelationTemplate | None:
        """Return the row whose property id or label (in any case) is `relation`, if there is one."""
        row = self.by_name.get((relation or "").strip().casefold())
        # A file on top may give a property another label: its template then serves the old label too.
        return self.by_name.get(row.property_id.casefold(), row) if row else None

    def near(self, relation: str) -> str | None:
        """The label that `relation` is all but: what is probably misspelt."""
        labels = {row.label.casefold(): row.label for row in self.by_name.values()}
        found = get_close_matches(relation.strip().casefold(), labels, n=1, cutoff=_NEAR)
        return labels[found[0]] if found else None


def utf8_text(file: Path) -> str:
    """Read a text file that a person wrote, with or without a byte order mark.

    Raises:
        EditFileError: it cannot be read or is not UTF-8; names the line and the byte.
    """
    try:
        return row_files.utf8_text(file)
    except EditRowError as error:
        raise EditFileError(str(error)) from None


def _table(file: Path, text: str) -> dict[str, RelationTemplate]:
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if _has_content(line)]
    if not lines or _cells(lines[0][1]) != _HEADER:
        raise EditFileError(f"{file}: expected the columns {', '.join(_HEADER)}, named on top, tabs between")
    table: dict[str, RelationTemplate] = {}
    for number, line in lines[1:]:
        cells = _cells(line)
        if wrong := _fault(cells, table):
            raise EditFileError(f"{file}, line {number}: {wrong}")
        row = RelationTemplate(*cells)
        table |= dict.fromkeys(row.names, row)
    return table


def _has_content(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("#")


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.split("\t"))


def _fault(cells: tuple[str, ...], table: Mapping[str, RelationTemplate]) -> str | None:
    """Say what is wrong with a row that follows the rows of `table`."""
    if len(cells) != len(_HEADER):
        return f"found {len(cells)} cells; expected {len(_HEADER)} with tabs between"
    row = RelationTemplate(*cells)
    if row.property_id and not is_property_id(row.property_id):
        return f"property: found {row.property_id!r}; expected an id such as P54, or nothing if it has none"
    if not row.label:
        return "label: is empty; expected the relation's name"
    if row.template.count("{}") != 1:
        return f"template: found {row.template!r}; expected one {{}} for the subject, as in '{{}} plays for'"
    if repeated := row.names & table.keys():
        return f"{', '.join(sorted(repeated))}: has a template above already; keep one"
    return None

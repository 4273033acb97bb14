"""Relation templates: a table that turns a relation (property id and label) into a prompt with {} for the subject.

English templates are in relation_templates.tsv, those of other languages in relation_forms.tsv, which is read only for
rows of such a language.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple, Self

from kg_common import rows as row_files
from kg_common.errors import EditRowError
from kg_edit.edits.edit import is_property_id
from kg_edit.errors import ConfigError, EditFileError
from kg_edit.languages import ENGLISH, FORM_LANGUAGES, check_language, forms_of, mixes_directions

_PACKAGED = Path("data", "relation_templates.tsv")
_NEAR = 0.84  # difflib's ratio: two swapped letters of ten still match, "father" and "mother" do not
_HEADER = ("property", "label", "template")
_WITH_LANGUAGE = (*_HEADER, "language")


class RelationTemplate(NamedTuple):
    """A relation r and its prompt template; `property_id` is empty for a relation outside Wikidata.

    ``paraphrase`` is a second template, which a row without paraphrases gets; English has none.
    """

    property_id: str
    label: str
    template: str
    language: str = ENGLISH
    paraphrase: str = ""

    @property
    def names(self) -> set[str]:
        """The names under which the relation is found: its id and its label, in lower case."""
        return {name.casefold() for name in (self.property_id, self.label) if name}


@dataclass(frozen=True)
class RelationTemplates:
    """Relation templates, found by property id or by label.

    Attributes:
        english_by_name: the English templates, packaged ones and those of a user's file, under their ids and labels in
            lower case (`RelationTemplate.names`).
        own_by_language: the templates of a user's file in other languages: by language, then under their names.
    """

    english_by_name: Mapping[str, RelationTemplate]
    own_by_language: Mapping[str, Mapping[str, RelationTemplate]] = field(default_factory=dict)

    @classmethod
    def load(cls, extra: Path | None = None, *, language: str = ENGLISH) -> Self:
        """Read the packaged table. The rows of the file `extra`, if given, are added and take precedence.

        A file without a column ``language`` is in ``language``.
        """
        text = files("kg_edit").joinpath(*_PACKAGED.parts).read_text(encoding="utf-8")
        tables = {ENGLISH: _read_table(_PACKAGED, text, ENGLISH)[ENGLISH]}
        if extra:
            for code, table in _read_table(extra, utf8_text(extra), language).items():
                tables[code] = tables.get(code, {}) | table
        english = tables.pop(ENGLISH)
        return cls(english, tables)

    @cached_property
    def packaged_by_language(self) -> Mapping[str, dict[str, RelationTemplate]]:
        """The packaged templates of other languages than English: by language, then under their names.

        They are read from relation_forms.tsv, at the first use.
        """
        tables = {}
        for language in FORM_LANGUAGES:
            if language == ENGLISH:
                continue
            table = dict[str, RelationTemplate]()
            for forms in forms_of(language).values():
                row = RelationTemplate(forms.property_id, forms.noun, forms.template, language, forms.paraphrase)
                table |= dict.fromkeys(row.names, row)  # under its id, and under its noun
            tables[language] = table
        return tables

    def find(self, relation: str | None, language: str = ENGLISH) -> RelationTemplate | None:
        """Return the template of a relation in a language, or None.

        Its name ``relation`` is its property id, its label in English or its label in the language, in any case.
        """
        table = self._table_of(language)
        name = (relation or "").strip().casefold()
        row = table.get(name)
        if row is None and language != ENGLISH and name in self.english_by_name:
            # An English label leads to the property's id, by which the language has its template: capital -> P36.
            row = table.get(self.english_by_name[name].property_id.casefold())
        if row is None:
            return None
        # A user's file may give a property another label, such as "chief town" to P36. Then "capital" still finds the
        # packaged row, but the user's row, which is under "p36" now, replaces it here.
        return table.get(row.property_id.casefold(), row)

    def _table_of(self, language: str) -> Mapping[str, RelationTemplate]:
        """Return all templates of a language under their names; those of a user's file take precedence."""
        if language == ENGLISH:
            return self.english_by_name
        return {**self.packaged_by_language.get(language, {}), **self.own_by_language.get(language, {})}

    def find_near(self, relation: str) -> str | None:
        """Return the English label that is almost equal to `relation`, which is then probably misspelt; else None."""
        labels = {row.label.casefold(): row.label for row in self.english_by_name.values()}
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


def _read_table(file: Path, text: str, language: str) -> dict[str, dict[str, RelationTemplate]]:
    """Read a table of templates, and return those of each language, each under all its names.

    Args:
        file: the path of the table, for messages.
        text: its content.
        language: that of the rows of a table without a column for it.
    """
    rows: list[tuple[str, list[str] | row_files.RowFault]] = []  # (file and line, cells)
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        # One line gives one row. Its cells lose the quotes that a spreadsheet puts around a cell with a comma.
        for _, cells in row_files.table_rows([line], "\t"):
            rows.append((f"{file}, line {number}", cells))
    header = rows[0][1] if rows else []
    if header not in ([*_HEADER], [*_WITH_LANGUAGE]):
        columns = f"{', '.join(_HEADER)} (and, if you like, language)"
        raise EditFileError(f"{file}: expected a header line with the columns {columns}, separated by tabs")
    tables: dict[str, dict[str, RelationTemplate]] = {}
    for where, cells in rows[1:]:
        template = _to_template(where, cells, len(header), language)
        table = tables.setdefault(template.language, {})
        repeated = template.names & table.keys()
        if repeated:
            names = ", ".join(sorted(repeated))
            raise EditFileError(f"{where}: {names}: already has a template on an earlier line; keep one")
        table.update(dict.fromkeys(template.names, template))
    return tables


def _to_template(where: str, cells: list[str] | row_files.RowFault, columns: int, language: str) -> RelationTemplate:
    """Check the cells of a line and return its template.

    Args:
        where: the file and the line.
        cells: the cells, or why the line can't be read.
        columns: how many columns the table has.
        language: the language of a line that names none.
    """
    if isinstance(cells, row_files.RowFault):
        raise EditFileError(f"{where}: {cells.message}")
    if len(cells) != columns:
        raise EditFileError(f"{where}: found {len(cells)} cells; expected {columns}, separated by tabs")
    property_id, label, text, *named_language = cells
    if named_language and named_language[0].strip():
        try:
            language = check_language(named_language[0])
        except ConfigError as error:
            raise EditFileError(f"{where}: language: {error}") from None
    template = RelationTemplate(property_id, label, text, language)
    if template.property_id and not is_property_id(template.property_id):
        expected = "expected an id such as P54, or nothing if it has none"
        raise EditFileError(f"{where}: property: found {template.property_id!r}; {expected}")
    if not template.label:
        raise EditFileError(f"{where}: label: is empty; expected the relation's name")
    if template.template.count("{}") != 1:
        expected = "expected one {} for the subject, as in '{} plays for'"
        raise EditFileError(f"{where}: template: found {template.template!r}; {expected}")
    if mixes_directions(template.template):
        mixed = "mixes letters written from left to right with letters written from right to left"
        raise EditFileError(f"{where}: template: {template.template!r} {mixed}; write it in one language")
    return template

"""A user's own edits as a data set: rows of `kg_edit.edits.edit.Edit`, in JSON or JSON lines."""

from __future__ import annotations

from functools import partial

from kg_edit.datasets.building import built, without_null
from kg_edit.datasets.reading import Parse, RawRecord
from kg_edit.datasets.record import BenchmarkRecord
from kg_edit.edits.rows import to_edit
from kg_edit.edits.templates import RelationTemplates


def parser() -> Parse:
    """Return the function that parses rows like those of `kg-edit edit`, with the packaged relation templates."""
    return partial(parse, templates=RelationTemplates.load())


def parse(row: RawRecord, name: str, *, templates: RelationTemplates) -> BenchmarkRecord:
    """Parse an edit or a triplet as a record; the labels of ids are not looked up.

    Raises:
        EditError: a field is wrong; the message names it.
    """
    edit = to_edit(without_null(row), row_id=name, labels={}, templates=templates)
    return built(edit.id, [edit], form="edits")

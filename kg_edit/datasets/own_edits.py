"""A user's own edits as a data set: rows of `kg_edit.edits.edit.Edit`, in JSON or JSON lines."""

from __future__ import annotations

from functools import partial

from kg_edit.datasets.building import built, without_null
from kg_edit.datasets.reading import Dataset, RawRecord
from kg_edit.datasets.record import BenchmarkRecord
from kg_edit.edits.rows import to_edit
from kg_edit.edits.templates import RelationTemplates


def parse(row: RawRecord, name: str, *, templates: RelationTemplates) -> BenchmarkRecord:
    """Parse an edit or a triplet as a record; the labels of ids are not looked up.

    Raises:
        EditError: a field is wrong; the message names it.
    """
    edit = to_edit(without_null(row), row_id=name, labels={}, templates=templates)
    return built(edit.id, [edit], form="edits")


OWN_EDITS = Dataset(
    name="edits",
    about="your own edits, as `kg-edit edit` takes them, in JSON or JSON lines",
    measures=(),
    parser=lambda: partial(parse, templates=RelationTemplates.load()),
    edits_have=("target_true", "paraphrases", "neighborhood", "questions"),
    precedence=-1,  # a benchmark's rows may look like edits
)

"""MQuAKE's cases as published, and the flat form of MQuAKE-Remastered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from kg_edit.datasets.reading import Row
from kg_edit.datasets.record import Triple
from kg_edit.edits.edit import Name, PropertyId, Record, Text, Texts
from kg_edit.edits.rows import Target
from kg_edit.errors import EditError, Fault

Triples = Annotated[tuple[Triple, ...], Field(strict=False)]
# Names as the file has them: an alias may be empty there, which the lint reports.
Aliases = Annotated[tuple[str, ...], Field(strict=False)]


class Rewrite(Record):
    """One edit of a case."""

    prompt: Name
    relation_id: PropertyId
    target_new: Target
    target_true: Target
    subject: Name
    question: Text


class Hop(Record):
    """One fact of a chain, asked and stated."""

    question: Text
    cloze: Text
    answer: Name
    answer_alias: Aliases = ()


class Chains(Record):
    """The facts behind a case."""

    triples: Triples
    new_triples: Triples
    edit_triples: Triples
    triples_labeled: Triples = ()
    new_triples_labeled: Triples = ()
    edit_triples_idx: object = None


class CaseRow(Record):
    """A case as published."""

    case_id: int | Name
    requested_rewrite: Annotated[tuple[Rewrite, ...], Field(strict=False, min_length=1)]
    questions: Annotated[Texts, Field(min_length=1)]
    answer: Name
    answer_alias: Aliases = ()
    new_answer: Name
    new_answer_alias: Aliases = ()
    single_hops: Annotated[tuple[Hop, ...], Field(strict=False)]
    new_single_hops: Annotated[tuple[Hop, ...], Field(strict=False, min_length=1)]
    orig: Chains
    answer_extended: object = None
    split: object = None


_FLAT = {f"orig_{field}": field for field in ("triples", "triples_labeled")} | {
    field: field for field in ("new_triples", "new_triples_labeled", "edit_triples", "edit_triples_idx")
}


def nested(row: Row) -> Row:
    """A row of the remastered set in the form of the others.

    Raises:
        EditError: its edits are no list.
    """
    if "orig" in row or not {"orig_triples", "edit_triples"} & set(row):
        return row
    orig = {field: row[flat] for flat, field in _FLAT.items() if flat in row}
    rest = {field: value for field, value in row.items() if field not in _FLAT}
    rewrites = row.get("requested_rewrite")
    if not isinstance(rewrites, list):
        raise EditError([Fault("requested_rewrite", "expected a list of edits")])
    return {**rest, "requested_rewrite": [_nested_targets(rewrite) for rewrite in rewrites], "orig": orig}


def _nested_targets(rewrite: Mapping[str, Any]) -> dict[str, Any]:
    fields = dict(rewrite)
    for target in ("target_new", "target_true"):
        parts = {part: fields.pop(f"{target}_{part}") for part in ("str", "id") if f"{target}_{part}" in fields}
        fields |= {target: parts} if parts else {}
    return fields

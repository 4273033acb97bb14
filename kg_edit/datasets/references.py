"""Texts that consistency.tfidf compares with: about entities of which a relation to an object is true."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from kg_edit.datasets.building import fields_of
from kg_edit.datasets.reading import document, every_row
from kg_edit.datasets.record import BenchmarkRecord
from kg_edit.edits.edit import Record, Text
from kg_edit.errors import EditError, EditFileError, Fault, describe

References = Mapping[tuple[str, str], tuple[str, ...]]  # (relation id, object id) -> texts


class Sample(Record):
    """A text about one entity; which one is accepted and not used."""

    text: Text
    name: object = None
    entity_id: object = None


class Snippets(Record):
    """A row of attribute_snippets.json: texts about entities that have one relation to one object."""

    relation_id: Text
    target_id: Text
    samples: Annotated[tuple[Sample, ...], Field(strict=False)]
    name: object = None


def read_references(path: Path) -> References:
    """The texts of a file in the form of ROME's attribute_snippets.json, by relation and object.

    Raises:
        EditFileError: the file can't be read, or a row is wrong; names it.
    """
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for number, row in enumerate(every_row(document(path)), 1):
        try:
            snippets = _snippets(row)
        except EditError as error:
            raise EditFileError(f"{path}, record {number}, {error.faults[0]}") from None
        key = snippets.relation_id, snippets.target_id
        found[key] = (*found.get(key, ()), *(sample.text for sample in snippets.samples))
    return found


def with_references(records: Iterable[BenchmarkRecord], references: References) -> tuple[BenchmarkRecord, ...]:
    """The records, each with the texts about its first edit's relation and new target, where there are any."""
    return tuple(record.model_copy(update={"references": references.get(_key(record), ())}) for record in records)


def _key(record: BenchmarkRecord) -> tuple[str, str]:
    edit = record.edits[0]
    return edit.relation_id or "", edit.target_new_id or ""


def _snippets(row: object) -> Snippets:
    if not isinstance(row, dict):
        raise EditError([Fault("", f"found {describe(row)}; expected an object {{...}} of fields")])
    return fields_of(Snippets, row)

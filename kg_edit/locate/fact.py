"""What is traced: a fact that a model may know, from an edit or from a published list of known facts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from kg_edit.edit_io.edit_rows import numbered_rows, unit_of
from kg_edit.edits.edit import Edit, Name, Record
from kg_edit.errors import EditError, EditFileError, Fault, describe, faults_of


class Fact(Record):
    """A prompt about a subject, and what a model that knows the fact says after it."""

    id: Name = Field(description="a name for the fact, unique among those traced")
    subject: Name = Field(description="what the fact is about")
    prompt: Name = Field(description="a sentence with {} for the subject that ends right before the object")
    answer: Name | None = Field(None, description="the object")

    @property
    def text(self) -> str:
        """The prompt with the subject filled in."""
        return self.prompt.replace("{}", self.subject)


class KnownRow(Record):
    """A row of a list of known facts, as published with ROME (Meng et al. 2022)."""

    subject: Name = Field(description="what the fact is about")
    prompt: Name = Field(description="the sentence about the subject, the subject's name in it")
    attribute: Name = Field(description="the object")
    known_id: int | str | None = Field(None, description="the fact's name")
    template: str | None = Field(None, description="not read")
    prediction: str | None = Field(None, description="not read: what GPT-2 XL said")
    relation_id: str | None = Field(None, description="not read")


def facts_of(edits: Sequence[Edit]) -> tuple[Fact, ...]:
    """The facts that edits are about, as they were before."""
    return tuple(Fact(id=edit.id, subject=edit.subject, prompt=edit.prompt, answer=edit.target_true) for edit in edits)


def read_known(path: Path) -> tuple[Fact, ...]:
    """Read a list of known facts (.json or .jsonl).

    Raises:
        EditFileError: the file can't be read, holds no fact, or a row is none: names the row and the field.
    """
    facts = tuple(_fact(path, number, row) for number, row in numbered_rows(path))
    if not facts:
        raise EditFileError(f"{path}: holds no rows; expected a known fact a row: subject, prompt, attribute")
    return facts


def _fact(path: Path, number: int, row: object) -> Fact:
    try:
        if isinstance(row, EditError):
            raise row
        return _known(row, number)
    except EditError as error:
        raise EditFileError(f"{path}, {unit_of(path)} {number}, {error.faults[0]}") from error


def _known(row: object, number: int) -> Fact:
    if not isinstance(row, dict):
        raise EditError([Fault("", f"found {describe(row)}; expected an object {{...}} of fields")])
    try:
        known = KnownRow.model_validate(row)
    except ValidationError as error:
        raise EditError(faults_of(error, KnownRow)) from error
    if known.subject not in known.prompt:
        raise EditError(
            [Fault("prompt", f"{known.prompt!r} does not name the subject {known.subject!r}; write it out as it is")]
        )
    name = number if known.known_id is None else known.known_id
    prompt = known.prompt.replace(known.subject, "{}", 1)
    return Fact(id=f"known-{name}", subject=known.subject, prompt=prompt, answer=known.attribute)

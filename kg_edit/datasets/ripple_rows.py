"""RippleEdits' records as published."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AliasChoices, Field

from kg_edit.edits.edit import Name, Record, Text


class Named(Record):
    """A right answer; one without a label in the graph that the data set was made from has no value."""

    value: str | None = None
    aliases: Annotated[tuple[str, ...], Field(strict=False)] = ()


class Asked(Record):
    """A query as published; the ids behind it are accepted and not used."""

    prompt: Text
    answers: Annotated[tuple[Named, ...], Field(strict=False)]
    query_type: object = None
    subject_id: object = None
    relation: object = None
    target_ids: object = None
    phrase: object = None
    second_relation: object = None
    second_hop_target_ids: object = None


class Test(Record):
    """A test of a criterion."""

    test_queries: Annotated[tuple[Asked, ...], Field(strict=False)]
    test_condition: Literal["OR", "AND"] = "OR"
    condition_queries: Annotated[tuple[Asked, ...], Field(strict=False)] = ()


class Fact(Record):
    """A fact as a sentence, with its ids."""

    prompt: Text
    relation: Name
    subject_id: str | None = None
    target_id: object = None
    original_fact: Fact | None = Field(None, validation_alias=AliasChoices("original_fact", "previous_fact"))


Tests = Annotated[tuple[Test, ...], Field(strict=False)]


class RippleRow(Record):
    """A row as published, in either spelling of its first criterion."""

    example_type: str = ""
    edit: Fact
    relation_specificity: Tests = Field((), validation_alias=AliasChoices("Relation_Specificity", "Relation_Specifity"))
    logical_generalization: Tests = Field((), alias="Logical_Generalization")
    subject_aliasing: Tests = Field((), alias="Subject_Aliasing")
    compositionality_i: Tests = Field((), alias="Compositionality_I")
    compositionality_ii: Tests = Field((), alias="Compositionality_II")
    forgetfulness: Tests = Field((), alias="Forgetfulness")

"""KnowEdit's rows as published, subset by subset."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import BeforeValidator, Field

from kg_edit.datasets.documents import every_row
from kg_edit.edits.edit import Name, Record, Text, Texts

# What the two published files call the questions to be forgotten, and those to be kept.
_SANITATION = {"success": "locality", "K_F": "K_R"}


class Asked(Record):
    """A prompt of a category, and its answers: a text, a list of aliases, or a list of such lists.

    Of a list of prompts the first is asked, as in EasyEdit.
    """

    prompt: Annotated[Text, BeforeValidator(lambda found: found[0] if found and isinstance(found, list) else found)]
    ground_truth: object = None


Categories = dict[str, Annotated[tuple[Asked, ...], Field(strict=False)]]


class FactRow(Record):
    """A row of wiki_recent, wiki_counterfact or ZsRE."""

    subject: Name
    prompt: Text
    target_new: Name
    ground_truth: object = None
    rephrase_prompt: str = ""
    rephrase: str = ""
    cond: str = ""
    portability: Categories = Field(default_factory=dict)
    locality: Categories = Field(default_factory=dict)


class BiographyRow(Record):
    """A row of WikiBio: a passage, and the sentence that shall come next."""

    concept: Name
    text: Text
    labels: Name
    portability: Categories = Field(default_factory=dict)
    locality: Categories = Field(default_factory=dict)


class OpinionRow(Record):
    """A row of ConvSent: replies about an entity."""

    ent: Name
    pos: Annotated[Texts, Field(min_length=1)]
    neg: Annotated[Texts, Field(min_length=1)]


class ForgottenRow(Record):
    """A row of Sanitation: a question whose answer shall not be told, and questions whose answers shall stay."""

    question: Text
    subject: str = ""
    ground_truth: Name
    target_new: Name
    kept: Annotated[tuple[tuple[str, str], ...], Field(strict=False)] = ()


def rows(document: object) -> Iterable[object]:
    """A list's rows; Sanitation's kept questions are dealt to its edits, so that all are asked once in all."""
    if not isinstance(document, dict):
        return every_row(document)
    for edited, kept in _SANITATION.items():
        if edited in document and kept in document:
            return _dealt(document[edited], document[kept])
    return every_row(document)


def _dealt(edited: object, kept: object) -> list[object]:
    asked, others = list(every_row(edited)), list(every_row(kept))
    return [
        {**row, "kept": [_pair(other) for other in others[place :: len(asked)]]} if isinstance(row, dict) else row
        for place, row in enumerate(asked)
    ]


def _pair(row: object) -> tuple[str, str]:
    fields = row if isinstance(row, dict) else {}
    return str(fields.get("question", "")), str(fields.get("ground_truth", ""))

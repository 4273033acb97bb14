"""The kinds of faults that a benchmark file may have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "bad-field",
    "unlabelled-id",
    "other-label",
    "missing-subject",
    "conflicting-edits",
    "conflicting-chain",
    "duplicated-question",
    "target-in-prompt",
    "answer-in-question",
    "answer-unchanged",
    "same-target",
    "empty-answer",
]
ABOUT: Mapping[Kind, str] = {
    "bad-field": "a row is no record: a field is missing, unknown or of another type",
    "unlabelled-id": "a Wikidata id stands where a label belongs, or the graph has no label for an id",
    "other-label": "the graph calls an entity otherwise: a wrong name, or another one",
    "missing-subject": "the subject does not occur in its prompt",
    "conflicting-edits": "two records edit one subject and relation to different targets",
    "conflicting-chain": "a record's answer rests on a fact that another record edits to something else",
    "duplicated-question": "a question is asked twice",
    "target-in-prompt": "the new target stands in the edit's prompt",
    "answer-in-question": "the answer stands in its question",
    "answer-unchanged": "the answer after the edits is the one before them",
    "same-target": "the new target is also the old one",
    "empty-answer": "an answer or an alias is empty",
}


@dataclass(frozen=True)
class Finding:
    """A fault: its kind, the record, and what is wrong."""

    kind: Kind
    id: str
    message: str

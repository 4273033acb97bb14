"""What a network is trained on: an edit, and its locality prompts (`kg_edit.evaluation.datasets.locality`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kg_common.json_text import digest
from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.evaluation.datasets.locality import locality_queries
from kg_edit.evaluation.datasets.own_edits import record_of
from kg_edit.scoring.questions import scoring_prompt


class TrainingEdit(NamedTuple):
    """An edit, and pairs (locality prompt, answer) that it must not change; none if its file has none."""

    edit: Edit
    locality: tuple[tuple[str, str], ...] = ()


def training_edits(items: Iterable[Edit | BenchmarkRecord]) -> list[TrainingEdit]:
    """Return the edits of ``items`` with their neighbours, or else the locality probes of their record or the edit.

    The prompts are in scored form. A neighbour of an edit without an old target gets the new one as its answer: the
    answer only determines at which tokens the predictions must not change.
    """
    edits = list[TrainingEdit]()
    for item in items:
        if isinstance(item, BenchmarkRecord):
            record = item
        else:
            record = record_of(item)
        for edit in record.edits:
            locality = list[tuple[str, str]]()
            for query in locality_queries(edit, record):
                answer = query.answers[0][0] if query.answers else edit.target_new
                locality.append((scoring_prompt(query), answer))
            edits.append(TrainingEdit(edit, tuple(locality)))
    return edits


def digest_of(edits: Iterable[TrainingEdit]) -> str:
    """Return the SHA-256, in hex, of the edits and their locality prompts."""
    return digest([[edit.model_dump(mode="json", exclude_defaults=True), locality] for edit, locality in edits])

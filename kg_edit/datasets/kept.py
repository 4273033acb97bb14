"""Prompts whose answers an edit must not change.

CounterFact has neighbours of an edit: prompts about other subjects, whose answer is the old target. zsRE and KnowEdit
have locality probes with answers of their own; they belong to the record, not to the edit. A file of edits may have
neither.
"""

from __future__ import annotations

from kg_edit.datasets.record import BenchmarkRecord, Query
from kg_edit.edits.edit import Edit


def kept_queries(edit: Edit, record: BenchmarkRecord) -> tuple[Query, ...]:
    """The edit's neighbours, or else the record's locality probes with their answers.

    Neighbours are sentences, and their answer is the old target; they have no answer if the edit has no old target.
    """
    if edit.neighborhood:
        answers = ((edit.target_true,),) if edit.target_true else ()
        return tuple(Query(prompt=prompt, answers=answers, form="sentence") for prompt in edit.neighborhood)
    queries = (query for probe in record.group("locality") for query in probe.queries)
    return tuple(query for query in queries if query.answers)

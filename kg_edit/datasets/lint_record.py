"""Faults that a record shows by itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from kg_edit.datasets.findings import Finding
from kg_edit.datasets.record import BenchmarkRecord, Query
from kg_edit.edits.edit import Edit, is_entity_id, is_property_id
from kg_edit.text.matching import mentions, normalised

_IN_TEXT = re.compile(r"\bQ[1-9][0-9]{3,}\b")  # not the Audi Q5
_CHANGED = ("multihop", "portability")  # questions whose answers follow from the edits


def in_record(record: BenchmarkRecord) -> Iterator[Finding]:
    """Ids in the place of names, and prompts that tell their answer, in edits and probes."""
    for edit in record.edits:
        yield from _of_edit(record, edit)
    for probe in record.probes:
        for query in (*probe.queries, *probe.conditions):
            yield from _ids_in(record, (query.prompt, *(name for names in query.answers for name in names)))
            if probe.family in _CHANGED:
                yield from _of_answer(record, query)


def _of_edit(record: BenchmarkRecord, edit: Edit) -> Iterator[Finding]:
    if mentions(edit.text, edit.target_new):
        yield Finding("target-in-prompt", record.id, f"{edit.target_new!r} in {edit.text[:100]!r}")
    yield from _ids_in(record, (edit.prompt, edit.subject, edit.target_new, edit.target_true or "", *edit.paraphrases))
    for question in edit.portability:
        names = ((question.answer, *question.aliases),)
        yield from _of_answer(record, Query(prompt=question.question, answers=names))


def _of_answer(record: BenchmarkRecord, query: Query) -> Iterator[Finding]:
    right = [name for names in query.answers for name in names]
    said = next((names[0] for names in query.answers if mentions(query.prompt, names[0])), None)
    if said:
        yield Finding("answer-in-question", record.id, f"{said!r} in {query.prompt!r}")
    same = {normalised(name) for name in query.others} & {normalised(name) for name in right}
    if same:
        yield Finding("answer-unchanged", record.id, f"{right[0]!r} was {query.others[0]!r} before: one of its names")


def _ids_in(record: BenchmarkRecord, texts: Iterable[str]) -> Iterator[Finding]:
    for text in texts:
        if is_entity_id(text) or is_property_id(text) or _IN_TEXT.search(text):
            yield Finding("unlabelled-id", record.id, f"found {text[:100]!r}; expected a name in the place of the id")

"""Prompts whose answers an edit must not change, and what a training file shares with the prompts of a test.

CounterFact has neighbours of an edit: prompts about other subjects, whose answer is the old target. zsRE and KnowEdit
have locality probes with answers of their own; they belong to the record, not to the edit. A file of edits may have
neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord, Query, edits_of
from kg_edit.text.matching import normalised


def locality_queries(edit: Edit, record: BenchmarkRecord) -> tuple[Query, ...]:
    """Return the edit's neighbours, or else the record's locality probes with their answers.

    Neighbours are sentences, and their answer is the old target; they have no answer if the edit has no old target.
    """
    if edit.neighborhood:
        answers = ((edit.target_true,),) if edit.target_true else ()
        return tuple(Query(prompt=prompt, answers=answers, form="sentence") for prompt in edit.neighborhood)
    return tuple(query for query in record.queries("locality") if query.answers)


class HeldOutPrompts:
    """What a test asks: the subjects of its edits, and all prompts that are scored.

    A training file may have the same neighbours and locality prompts: a network that is trained to leave them unchanged
    has seen a part of the test.
    """

    def __init__(self, tests: Iterable[BenchmarkRecord]) -> None:
        records = list(tests)
        # The subjects, and their words; an unstructured edit may have no subject, and a subject no words ("!!!").
        self._subjects = dict[str, str]()
        for edit in edits_of(records):
            if edit.subject:
                words = " ".join(normalised(edit.subject))
                self._subjects[edit.subject.casefold()] = f" {words} " if words else ""
        self._asked = set[str]()
        for record in records:
            self._asked.update(prompt.strip().casefold() for prompt in _list_prompts(record))

    def without(self, record: BenchmarkRecord) -> BenchmarkRecord | None:
        """Return the record without what the test asks; None if no edit is left.

        Edits of a tested subject and edits whose own prompt is asked go, and so do paraphrases, neighbours, questions
        and locality prompts that are asked or name a tested subject.
        """
        edits = []
        for edit in record.edits:
            if edit.subject.casefold() in self._subjects or edit.text.strip().casefold() in self._asked:
                continue
            prompts = {
                "neighborhood": tuple(prompt for prompt in edit.neighborhood if not self.has(prompt)),
                "paraphrases": tuple(prompt for prompt in edit.paraphrases if not self.has(prompt)),
                "portability": tuple(question for question in edit.portability if not self.has(question.question)),
            }
            edits.append(edit.model_copy(update=prompts))
        if not edits:
            return None
        probes = []
        for probe in record.probes:
            remaining = tuple(query for query in probe.queries if not self.has(query.prompt))
            if remaining:
                probes.append(probe.model_copy(update={"queries": remaining}))
        return record.model_copy(update={"edits": tuple(edits), "probes": tuple(probes)})

    def has(self, prompt: str) -> bool:
        """Return whether the test asks ``prompt``, or has an edit of a subject that it names."""
        text = prompt.strip().casefold()
        if text in self._asked:
            return True
        prompt_words = f" {' '.join(normalised(prompt))} "
        return any(subject in text and words in prompt_words for subject, words in self._subjects.items())


def _list_prompts(record: BenchmarkRecord) -> list[str]:
    """Return all prompts of a record that are scored."""
    prompts = list[str]()
    for edit in record.edits:
        prompts += [edit.text, *edit.paraphrases, *edit.neighborhood]
        prompts += [question.question for question in edit.portability]
    for probe in record.probes:
        prompts += [query.prompt for query in probe.queries]
    return prompts


def count_locality_queries(records: Sequence[BenchmarkRecord]) -> int:
    """Return the number of prompts in ``records`` whose answers must not change."""
    count = 0
    for record in records:
        for edit in record.edits:
            count += len(locality_queries(edit, record))
    return count

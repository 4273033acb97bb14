"""PopQA (Mallen et al. 2023): questions about entities, from very popular to rare ones.

PopQA has no edits, so its own facts are taught: the edit makes the model complete the question with its answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from kg_edit.edits.edit import Edit, Name, Record, Text
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.errors import EditError, Fault
from kg_edit.evaluation.datasets.building import (
    build_edit,
    build_record,
    check_fields,
    find_template,
    make_probes,
)
from kg_edit.evaluation.datasets.reading import Dataset, RawRecord, every_row

# The question of each of the sixteen relations, for rows that name no subject.
QUESTIONS = {
    "occupation": "What is {}'s occupation?",
    "place of birth": "In what city was {} born?",
    "genre": "What genre is {}?",
    "father": "Who is the father of {}?",
    "country": "In what country is {}?",
    "producer": "Who was the producer of {}?",
    "director": "Who was the director of {}?",
    "capital of": "What is {} the capital of?",
    "screenwriter": "Who was the screenwriter for {}?",
    "composer": "Who was the composer of {}?",
    "color": "What color is {}?",
    "religion": "What is the religion of {}?",
    "sport": "What sport does {} play?",
    "author": "Who is the author of {}?",
    "mother": "Who is the mother of {}?",
    "capital": "What is the capital of {}?",
}
_ENTITY = re.compile(r"https?://www\.wikidata\.org/entity/(Q[1-9][0-9]*)")


class PopqaRow(Record):
    """A row as published; its lists are JSON texts."""

    id: int
    subj: Name
    prop: Name
    obj: Name
    question: Text
    possible_answers: str
    s_uri: str = ""
    o_uri: str = ""
    subj_id: object = None
    prop_id: object = None
    obj_id: object = None
    s_aliases: object = None
    o_aliases: object = None
    s_wiki_title: object = None
    o_wiki_title: object = None
    s_pop: object = None
    o_pop: object = None
    paragraphs: object = None


class AskedRow(Record):
    """A row of the form that has only a question and its answers."""

    input: Text
    output: str
    id: int
    s_pop: object = None
    o_pop: object = None


def rows(document: object) -> Iterable[object]:
    """Return the rows of a list, or those of an object's parts dev and then test."""
    if not isinstance(document, dict):
        return every_row(document)
    parts = [document[name] for name in ("dev", "test") if name in document]
    if not parts:
        return every_row(document)
    all_rows = list[object]()
    for part in parts:
        all_rows += every_row(part)
    return all_rows


def parse(raw: RawRecord, name: str) -> BenchmarkRecord:
    """Parse a row of either form: the edit teaches the first answer, and the probe recall accepts all answers."""
    if "input" in raw:
        return _parse_short(check_fields(AskedRow, raw), name)
    return _parse_long(check_fields(PopqaRow, raw), name)


def _parse_long(row: PopqaRow, name: str) -> BenchmarkRecord:
    """Parse a row as published, which names the subject, the relation and the object, with their Wikidata entities."""
    parts = find_template(row.question, row.subj, field="question")
    right = (row.obj, *_read_answers(row.possible_answers, field="possible_answers"))
    fields = {
        "id": name,
        "prompt": parts.prompt,
        "subject": parts.subject,
        "relation": row.prop,
        "target_new": row.obj,
    }
    for field, uri in (("subject_id", row.s_uri), ("target_new_id", row.o_uri)):
        match = _ENTITY.fullmatch(uri.strip())
        if match:
            fields[field] = match[1]
    # A fault of the edit is reported under the name of the row's field.
    row_fields = {"prompt": "question", "subject": "subj", "target_new": "obj", "relation": "prop"}
    return _build(build_edit(fields, field_names=row_fields), right)


def _parse_short(row: AskedRow, name: str) -> BenchmarkRecord:
    """Parse a row of the short form, which has neither subject nor relation: the question itself shows both."""
    fact = asked_about(row.input)
    if fact is None:
        expected = f"the question of one of PopQA's {len(QUESTIONS)} relations"
        raise EditError([Fault("input", f"{row.input!r} is not {expected}")])
    relation, subject = fact
    right = _read_answers(row.output, field="output")
    fields = {
        "id": name,
        "prompt": QUESTIONS[relation],
        "subject": subject,
        "relation": relation,
        "target_new": right[0],
    }
    row_fields = {"prompt": "input", "subject": "input", "target_new": "output"}
    edit = build_edit(fields, field_names=row_fields)
    return _build(edit, right)


def _build(edit: Edit, right: Sequence[str]) -> BenchmarkRecord:
    """Return the record of an edit, with the answers that recall accepts."""
    names = tuple(dict.fromkeys(right))  # each once
    recall = make_probes("recall", edit.text, (names,))
    return build_record(edit.id, [edit], recall, form="PopQA; its own answer is taught")


def asked_about(question: str) -> tuple[str, str] | None:
    """Return the relation and the subject of a question, or None if it is not a question of PopQA."""
    for relation, form in QUESTIONS.items():
        pattern = re.escape(form).replace(r"\{\}", "(.+)")
        match = re.fullmatch(pattern, question.strip())
        if match:
            return relation, match[1]
    return None


def _read_answers(text: str, *, field: str) -> tuple[str, ...]:
    """Read the answers from a list that is written as JSON; entries that are blank or no text are dropped."""
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, or nested too deeply
        listed = None
    names: tuple[str, ...] = ()
    if isinstance(listed, list):
        names = tuple(name for name in listed if isinstance(name, str) and name.strip())
    if not names:
        raise EditError([Fault(field, f"found {text[:60]!r}; expected a list of answers written as JSON")])
    return names


POPQA = Dataset(
    name="popqa",
    about="PopQA (Mallen et al. 2023): its own answers are taught",
    measures=("recall",),
    parser=lambda: parse,
    rows=rows,
)

"""Ripples: questions about what follows from an edit, made by `kg-edit data ripples` for one model.

A file is an object: its format, provenance, the nouns of relations, objects to choose from by relation, and records. A
record is an edit and questions; a question is a path from a thing over relations to its answer, and is worded here:
"What is the capital of the country of Rome?". Its hops are facts that the model knows by itself, but for the last hop
of an *unknown* two-hop question, which it gets wrong in every form. *Withheld* is a question whose answer a method that
reads a graph must not see there (`kg_edit.graphs.controls.Withheld`), *stated* one whose answer stands there.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from kg_edit.datasets.building import built, fields_of
from kg_edit.datasets.reading import RawRecord, every_row
from kg_edit.datasets.record import Answer, BenchmarkRecord, Probe, Query
from kg_edit.edits.edit import Edit, Name, Record, Text
from kg_edit.errors import EditError, Fault

FORMAT = "kg-edit ripples/1"
Kind = Literal[
    "two-hop",
    "three-hop",
    "alias",
    "description",
    "inverse",
    "other-relation",
    "old-object",
    "new-object",
    "same-object",
    "edit",
]
STAYS = ("other-relation", "old-object", "new-object", "same-object")
GROUPS = (
    "ripples-edit.question",
    *(f"ripples-{hop}.{graph}" for hop in ("known", "unknown") for graph in ("stated", "withheld")),
    *(f"ripples-more.{kind}" for kind in ("three-hop", "alias", "description", "inverse")),
    *(f"ripples-stay.{kind}" for kind in STAYS),
)
CHOICES = 10
_HEADER = ("nouns", "inverse", "choices")
_INVERSE = "-"  # before the property that is asked the other way round
Names = Annotated[tuple[Text, ...], Field(strict=False)]
Words = Mapping[str, str]


class RippleQuestion(Record):
    """A question as a path; ``hops`` are properties, the one nearest to ``start`` first."""

    kind: Kind = Field(description="what follows or stays, as RippleEdits sorts it")
    start: Text = Field(description="the thing that the question names")
    hops: Answer = Field(description="the properties from there to the answer; -P36 is asked the other way round")
    answers: Answer = Field(description="the right answer, then its aliases")
    old: Names = Field((), description="names of the answer before the edit")
    via: Names = Field((), description="the things between s's new object and the answer")
    known: bool = Field(True, description="whether the model knows each hop by itself")
    stated: bool = Field(True, description="whether a method that reads a graph may see the answer there")


class RippleRow(Record):
    """A record of the file, with what its header says for all records."""

    id: Name
    split: Literal["dev", "test"] = "test"
    edit: Mapping[str, Any]
    questions: Annotated[tuple[RippleQuestion, ...], Field(strict=False)]
    nouns: Words = Field({}, description="of the file's header")
    inverse: Words = Field({}, description="of the file's header")
    choices: Mapping[str, list[str]] = Field({}, description="of the file's header")


def rows(document: object) -> Iterable[object]:
    """The records of a file, each with the header's words; what is of another format is left to `parse`."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        return every_row(document)
    shared = {name: document.get(name, {}) for name in _HEADER}
    return [{**row, **shared} if isinstance(row, dict) else row for row in document.get("records", [])]


def parse(raw: RawRecord, name: str) -> BenchmarkRecord:
    """The record of a row, with a probe for each question.

    Raises:
        EditError: a field is wrong, or a relation has no noun; names it.
    """
    if "records" in raw:
        raise EditError([Fault("format", f"expected {FORMAT!r}; make the file with `kg-edit data ripples`")])
    row = fields_of(RippleRow, raw)
    edit = fields_of(Edit, {"id": name, **row.edit})
    itself = RippleQuestion(kind="edit", start=edit.subject, hops=(edit.relation_id or "",), answers=(edit.target_new,))
    probes = [_probe(question, row, place) for place, question in enumerate([*row.questions, itself])]
    return built(name, [edit], probes, form=f"Ripples, {row.split}")


def split_of(record: BenchmarkRecord) -> str:
    """The part of the file that a record belongs to: dev or test."""
    return record.form.rpartition(" ")[2]


def withheld_answers(records: Iterable[BenchmarkRecord]) -> Mapping[str, frozenset[str]]:
    """By the edit's id what a graph method must not see: the names of the answers of its withheld questions."""
    found: dict[str, frozenset[str]] = {}
    for record in records:
        hidden = (probe for probe in record.probes if probe.measures.endswith(".withheld"))
        names = {name for probe in hidden for query in probe.queries for some in query.answers for name in some}
        found |= {edit.id: frozenset(names) for edit in record.edits if names}
    return found


def _probe(question: RippleQuestion, row: RippleRow, place: int) -> Probe:
    try:
        prompt, recalled = worded(question, row.nouns, row.inverse), _recalled(question, row)
    except KeyError as error:
        message = f"relation {error} has no noun; put one into the file's nouns"
        raise EditError([Fault(f"questions.{place}.hops", message)]) from None
    query = Query(
        prompt=prompt,
        answers=(question.answers,),
        others=_others(question, row),
        old=question.old,
        recalled=recalled,
    )
    return Probe(measures=_measures(question), queries=(query,))


def _measures(question: RippleQuestion) -> str:
    if question.kind == "two-hop":
        known, stated = "known" if question.known else "unknown", "stated" if question.stated else "withheld"
        return f"ripples-{known}.{stated}"
    if question.kind == "edit":
        return "ripples-edit.question"
    return f"{'ripples-stay' if question.kind in STAYS else 'ripples-more'}.{question.kind}"


def worded(question: RippleQuestion, nouns: Words, inverse: Words) -> str:
    """The question in words."""
    *before, last = question.hops
    if last.startswith(_INVERSE):
        return inverse[last.removeprefix(_INVERSE)].replace("{}", question.start)
    hops = " of the ".join(nouns[hop] for hop in (last, *reversed(before)))
    return f"What is the {hops} of {question.start}?"


def _recalled(question: RippleQuestion, row: RippleRow) -> str:
    """The facts after the edited one that lead to the answer, as sentences; "" where there are none."""
    if question.kind not in ("two-hop", "three-hop"):
        return ""
    things = (row.edit["target_new"], *question.via, question.answers[0])
    return " ".join(_sentences(things, question.hops[1:], row.nouns))


def _sentences(things: tuple[str, ...], hops: tuple[str, ...], nouns: Words) -> Iterator[str]:
    for thing, hop, end in zip(things, hops, things[1:], strict=False):
        yield f"The {nouns[hop]} of {thing} is {end}."


def _others(question: RippleQuestion, row: RippleRow) -> tuple[str, ...]:
    """Nine other objects of the last relation, drawn by the record; fewer where the file has fewer."""
    taken = {name.casefold() for name in (*question.answers, *question.old)}
    some = [name for name in row.choices.get(question.hops[-1], []) if name.casefold() not in taken]
    drawn = random.Random(f"{row.id}/{question.hops}").sample(some, min(CHOICES - 1, len(some)))  # noqa: S311 - no secret
    rivals = question.old[:1] if question.kind == "two-hop" else ()
    return tuple(dict.fromkeys([*rivals, *drawn]))[: CHOICES - 1]

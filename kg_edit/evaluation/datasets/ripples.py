"""Ripples: portability and locality questions of edits, made by `kg-edit data ripples` for one model.

A file is an object with its format, provenance, nouns of relations, aliases of answers, objects to choose from, and
records. A record is an edit and its questions. A question is a path from an entity over relations to its answer; this
module words it: "What is the capital of the country of Rome?". Two paths of other entities, with other answers, serve
as its examples.

The model knows each hop of a path by itself, but for the edited one. The exception is an *unknown* two-hop question:
the model gets its last hop wrong in every form. The answer of a *withheld* question is hidden from a method that reads
a graph (`kg_edit.graphs.controls.Withheld`); the answer of a *stated* question is visible in the graph.
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from kg_common.rows import RowFault
from kg_edit.edits.edit import Edit, Name, Record, Text
from kg_edit.edits.record import AnswerNames, BenchmarkRecord, Example, Probe, Query
from kg_edit.errors import ConfigError, EditError, Fault
from kg_edit.evaluation.datasets.building import build_record, check_fields
from kg_edit.evaluation.datasets.reading import Dataset, RawRecord, every_row

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
    "ripples-known.stated",
    "ripples-known.withheld",
    "ripples-unknown.stated",
    "ripples-unknown.withheld",
    "ripples-more.three-hop",
    "ripples-more.alias",
    "ripples-more.description",
    "ripples-more.inverse",
    *(f"ripples-stay.{kind}" for kind in STAYS),
)
CHOICES = 10
_RECALLED = ("two-hop", "three-hop")  # kinds whose answer follows from the new object by facts that a model can recall
_SHOWN = 2  # examples before a question
_INVERSE = "-"  # prefix of a property that is asked in the inverse direction
Names = Annotated[tuple[Text, ...], Field(strict=False)]
Hops = Annotated[tuple[Text, ...], Field(strict=False, min_length=1)]  # properties: ("P17", "P36")
Words = Mapping[str, str]


class RippleQuestion(Record):
    """A question as a path; ``hops`` are properties, beginning with the one next to ``start``."""

    kind: Kind = Field(description="the kind of portability or locality, as RippleEdits has them")
    start: Text = Field(description="the thing that the question names")
    hops: Hops = Field(description="the properties from there to the answer; -P36 is asked in the inverse direction")
    answers: AnswerNames = Field(description="the right answer, and aliases that the header does not have")
    old: Names = Field((), description="answers before the edit")
    via: Names = Field((), description="the things between s's new object and the answer")
    known: bool = Field(True, description="whether the model knows each hop but the edited one by itself")
    stated: bool = Field(True, description="whether a method that reads a graph may see the answer there")


class Header(Record):
    """What the file has for all its records."""

    nouns: Words = Field({}, description="the noun of each relation")
    asks: Words = Field({}, description="questions for relations that no noun words")
    inverse: Words = Field({}, description="questions for relations in the inverse direction")
    paraphrases: Mapping[str, Names] = Field({}, description="other wordings of the edits of each relation")
    aliases: Mapping[str, Names] = Field({}, description="other names of answers")
    choices: Mapping[str, Names] = Field({}, description="objects of each relation")
    # {"P131 P36": [["Qinghai", "People's Republic of China", "Beijing"], …]}
    examples: Mapping[str, list[list[str]]] = Field(
        {}, description="paths of other entities, as labels, by their hops with spaces between"
    )


class RippleRow(Record):
    """A record of the file, with the file's header."""

    id: Name
    split: Literal["dev", "test"] = "test"
    edit: Edit
    questions: Annotated[tuple[RippleQuestion, ...], Field(strict=False)]
    header: Header = Header()


_ASKED = "for the question of the edit itself"


def rows(document: object) -> Iterable[object]:
    """Return the records of a file, each with its header; a document of another format is left to `parse`."""
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        return every_row(document)
    fields = {name: document[name] for name in Header.model_fields if name in document}
    try:  # once, not for each record
        header = check_fields(Header, fields)
    except EditError as error:
        return [RowFault(*error.faults[0])]
    with_header = list[object]()
    for row in every_row(document.get("records", [])):
        if isinstance(row, dict):
            with_header.append({**row, "header": header})
        else:
            with_header.append(row)  # `parse` refuses it
    return with_header


def parse(raw: RawRecord, name: str) -> BenchmarkRecord:
    """Parse a row as a record, with one probe for each question."""
    if "records" in raw:
        raise EditError([Fault("format", f"expected {FORMAT!r}; make the file with `kg-edit data ripples`")])
    row = check_fields(RippleRow, raw)
    edit = row.edit
    relation = edit.relation_id
    if edit.target_text:
        raise EditError([Fault("edit.target_new", f"is missing; expected o*, {_ASKED}")])
    if not relation:
        raise EditError([Fault("edit.relation_id", f"is missing; expected the property, such as P36, {_ASKED}")])
    shared = tuple(text.replace("{}", edit.subject) for text in row.header.paraphrases.get(relation, ()))
    edit = edit.model_copy(update={"id": name, "paraphrases": edit.paraphrases or shared})
    probes = []
    for index, question in enumerate(row.questions):
        _check_via(question, f"questions[{index}].via")
        probes.append(_make_probe(question, row, f"questions[{index}].hops"))
    itself = RippleQuestion(kind="edit", start=edit.subject, hops=(relation,), answers=(edit.target_new,))
    probes.append(_make_probe(itself, row, "edit.relation_id"))
    return build_record(name, [edit], probes, form=f"Ripples, {row.split}")


def split_of(record: BenchmarkRecord) -> str:
    """Return the split of a record: dev or test."""
    return record.form.rpartition(" ")[2]


def part_of(records: Sequence[BenchmarkRecord], split: str | None) -> tuple[BenchmarkRecord, ...]:
    """Return the records of a split; all records if ``split`` is None."""
    chosen = tuple(record for record in records if split is None or split_of(record) == split)
    if not chosen:
        parts = sorted({split_of(record) for record in records} & {"dev", "test"})
        known = "this data set has no splits; remove --split"
        if parts:
            known = f"known: {', '.join(parts)}"
        raise ConfigError(f"--split {split}: no record belongs to that split; {known}")
    return chosen


def withheld_answers(records: Iterable[BenchmarkRecord]) -> Mapping[str, frozenset[str]]:
    """Return for each edit id the names that a graph method must not see: the answers of its withheld questions."""
    answers: dict[str, frozenset[str]] = {}
    for record in records:
        names = set[str]()
        for probe in record.probes:
            if probe.measures.endswith(".withheld"):
                for query in probe.queries:
                    names.update(query.right_names)
        if names:
            answers |= dict.fromkeys((edit.id for edit in record.edits), frozenset(names))
    return answers


def _check_via(question: RippleQuestion, field: str) -> None:
    """Refuse a path over the edit's new object that names too few or too many things between it and the answer.

    The first hop leads to the new object, the last one to the answer, and each other one to a thing of ``via``.
    """
    hops = len(question.hops)
    things = len(question.via)
    if question.kind in _RECALLED and hops != things + 2:
        message = f"found {hops} hops and {things} things between the new object and the answer"
        raise EditError([Fault(field, f"{message}; there must be two hops more than things")])


def _make_probe(question: RippleQuestion, row: RippleRow, field: str) -> Probe:
    """Return the probe of a question; ``field`` is that of its hops, for the message."""
    try:
        query = _make_query(question, row)
    except EditError as error:  # of `_find_noun` and `_find_inverse`, for a relation that the header does not word
        raise EditError([Fault(field, fault.message) for fault in error.faults]) from None
    return Probe(measures=_group_of(question), queries=(query,))


def _make_query(question: RippleQuestion, row: RippleRow) -> Query:
    """Return the question in words, with its answers, the wrong answers to choose from, and its examples."""
    header = row.header
    right = _with_aliases(question.answers, header)
    old = _with_aliases(question.old, header)
    answers = {name.casefold() for name in (*right, *old)}
    # The facts that lead from the edit's new object to the answer, for the ceilings of an evaluation.
    recalled: tuple[str, ...] = ()
    if question.kind in _RECALLED:
        things = (row.edit.target_new, *question.via, question.answers[0])
        recalled = _word_facts(things, question.hops[1:], header)
    return Query(
        prompt=word_question(question.start, question.hops, header),
        answers=(right,),
        others=_draw_others(question, row, answers=answers),
        old=old,
        recalled=" ".join(recalled),
        examples=_find_examples(question, header, answers=answers),
    )


def _draw_others(question: RippleQuestion, row: RippleRow, *, answers: Container[str]) -> tuple[str, ...]:
    """Draw wrong answers to choose from: objects of the last relation, with a seed from the record's id.

    ``answers`` are the right and the old ones, in lower case; none of them is drawn. A two-hop question tests whether
    the edit has replaced the old answer, so there the first old one competes too.
    """
    objects = [name for name in row.header.choices.get(question.hops[-1], ()) if name.casefold() not in answers]
    number = min(CHOICES - 1, len(objects))
    drawn = random.Random(f"{row.id}/{question.hops}").sample(objects, number)  # noqa: S311 - no secret
    if question.kind == "two-hop":
        drawn = [*question.old[:1], *drawn]
    return tuple(dict.fromkeys(drawn))[: CHOICES - 1]


def _group_of(question: RippleQuestion) -> str:
    """Return the group of probes in which a question is scored."""
    if question.kind == "two-hop":
        known = "known" if question.known else "unknown"
        stated = "stated" if question.stated else "withheld"
        return f"ripples-{known}.{stated}"
    if question.kind == "edit":
        return "ripples-edit.question"
    if question.kind in STAYS:
        return f"ripples-stay.{question.kind}"
    return f"ripples-more.{question.kind}"


def _with_aliases(names: Sequence[str], header: Header) -> tuple[str, ...]:
    """Return the names, and their aliases by the header, each once."""
    every = list(names)
    for name in names:
        every += header.aliases.get(name, ())
    return tuple(dict.fromkeys(every))


def word_question(start: str, hops: Sequence[str], header: Header) -> str:
    """Return the question of a path: "On which continent is the country of Rome?".

    A path in the inverse direction has one hop: "Which country has Tokyo as its capital?".
    """
    *before, last = hops
    if last.startswith(_INVERSE):
        return _find_inverse(last.removeprefix(_INVERSE), header).replace("{}", start)
    thing = start
    for hop in before:
        thing = f"the {_find_noun(hop, header)} of {thing}"
    if last in header.asks:
        return header.asks[last].replace("{}", thing)
    return f"What is the {_find_noun(last, header)} of {thing}?"


def _find_noun(relation: str, header: Header) -> str:
    """Return the noun of a relation; refuse a relation without one."""
    if relation not in header.nouns:
        raise EditError([Fault("nouns", f"relation {relation!r} has no noun; add one to the file's nouns")])
    return header.nouns[relation]


def _find_inverse(relation: str, header: Header) -> str:
    """Return the question for a relation in the inverse direction; refuse a relation without one."""
    if relation not in header.inverse:
        message = f"relation {relation!r} has no inverse question; add one to the file's inverse"
        raise EditError([Fault("inverse", message)])
    return header.inverse[relation]


def _word_facts(things: Sequence[str], hops: Sequence[str], header: Header) -> tuple[str, ...]:
    """Return the facts of a path: "The country of Rome is Japan.", "The capital of Japan is Tokyo.".

    ``things`` are Rome, Japan and Tokyo: one more than the ``hops``.
    """
    facts = []
    for position, hop in enumerate(hops):
        facts.append(f"The {_find_noun(hop, header)} of {things[position]} is {things[position + 1]}.")
    return tuple(facts)


def _find_examples(question: RippleQuestion, header: Header, *, answers: Container[str]) -> tuple[Example, ...]:
    """Return two paths like the question's, from other entities to other answers; () if the file has fewer than two.

    The question's own hops are preferred, then others of the same length with the same last relation, then that
    relation alone. ``answers`` are the question's right and old ones, in lower case.
    """
    own = list(question.hops)
    alike = []  # hops that end like the question's, and are as long, or the last one alone
    for joined_hops in header.examples:
        hops = joined_hops.split()
        if hops[-1:] == own[-1:] and len(hops) in (len(own), 1):
            alike.append(hops)

    def rank(hops: list[str]) -> tuple[bool, bool, list[str]]:
        return hops != own, len(hops) != len(own), hops  # False comes first

    for hops in sorted(alike, key=rank):
        paths = []
        for path in header.examples[" ".join(hops)]:
            is_whole = len(path) == len(hops) + 1
            if is_whole and path[-1].casefold() not in answers:
                paths.append(path)
        if len(paths) >= _SHOWN:
            return tuple(_make_example(path, hops, header) for path in paths[:_SHOWN])
    return ()


def _make_example(path: Sequence[str], hops: Sequence[str], header: Header) -> Example:
    facts = _word_facts(path, hops, header)
    return Example(question=word_question(path[0], hops, header), answer=path[-1], facts=facts)


RIPPLES = Dataset(
    name="ripples",
    about="portability and locality of edits, made for one model by `kg-edit data ripples`",
    measures=GROUPS,
    parser=lambda: parse,
    edits_have=("target_true", "paraphrases", "neighborhood"),
    rows=rows,
)

"""RippleEdits (Cohen et al. 2024): six criteria of what should change with an edit, and what should not.

Its records state the edit as a sentence. The template of the relation separates the subject from the target.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AliasChoices, Field

from kg_edit.edits.edit import Edit, Name, Record, Text, is_item_id
from kg_edit.edits.record import BenchmarkRecord, Probe, Query, Remark
from kg_edit.errors import EditError, Fault, did_you_mean
from kg_edit.evaluation.datasets.building import build_edit, build_record, check_fields, make_probes, old_target
from kg_edit.evaluation.datasets.reading import Dataset, RawRecord


class Named(Record):
    """A right answer; its value is null if the entity had no label in the graph from which the data set was made."""

    value: str | None = None
    aliases: Annotated[tuple[str, ...], Field(strict=False)] = ()


class PublishedQuery(Record):
    """A query as published; its ids are not used."""

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
    """A test of a criterion: queries, how many must be right (OR, AND), and what the model must know before."""

    test_queries: Annotated[tuple[PublishedQuery, ...], Field(strict=False)]
    test_condition: Literal["OR", "AND"] = "OR"
    condition_queries: Annotated[tuple[PublishedQuery, ...], Field(strict=False)] = ()


class RippleFact(Record):
    """A fact as a sentence, with its ids."""

    prompt: Text
    relation: Name
    subject_id: str | None = None
    target_id: object = None
    original_fact: RippleFact | None = Field(None, validation_alias=AliasChoices("original_fact", "previous_fact"))


Tests = Annotated[tuple[Test, ...], Field(strict=False)]


class RippleRow(Record):
    """A row as published; its first criterion is published in two spellings."""

    example_type: str = ""
    edit: RippleFact
    relation_specificity: Tests = Field((), validation_alias=AliasChoices("Relation_Specificity", "Relation_Specifity"))
    logical_generalization: Tests = Field((), alias="Logical_Generalization")
    subject_aliasing: Tests = Field((), alias="Subject_Aliasing")
    compositionality_i: Tests = Field((), alias="Compositionality_I")
    compositionality_ii: Tests = Field((), alias="Compositionality_II")
    forgetfulness: Tests = Field((), alias="Forgetfulness")


CRITERIA = {
    "relation_specificity": "RS",
    "logical_generalization": "LG",
    "subject_aliasing": "SA",
    "compositionality_i": "CI",
    "compositionality_ii": "CII",
    "forgetfulness": "FN",
}


class Relation(NamedTuple):
    """A relation of the data set: its property id, if it has one, and its template."""

    property: str
    template: str


def parse(raw: RawRecord, name: str, *, known: Mapping[str, Relation]) -> BenchmarkRecord:
    """Parse a row as a record, with one probe for each test.

    Args:
        raw: a row as published.
        name: the id of the record.
        known: the relations of the data set by name (`relations`).
    """
    row = check_fields(RippleRow, raw)
    edit, remarks = _parse_edit(row, name, known)
    probes, dropped = _parse_tests(row)
    if dropped:
        message = f"{dropped} tests have a query without an answer, and are left out"
        remarks = (*remarks, Remark(kind="empty-answer", message=message))
    efficacy = make_probes("efficacy", edit.text, ((edit.target_new,),), form="sentence")
    form = "RippleEdits"
    if row.example_type:
        form = f"RippleEdits, {row.example_type}"
    return build_record(name, [edit], [*efficacy, *probes], form=form, remarks=remarks)


def _parse_edit(row: RippleRow, name: str, known: Mapping[str, Relation]) -> tuple[Edit, tuple[Remark, ...]]:
    """Parse the edit of a row, with a remark if its old target is the new one."""
    subject, target, relation = _parse_fact(row.edit, known, field="edit")
    old_fact = row.edit.original_fact
    old_target_name = None
    if old_fact:
        _, old_target_name, _ = _parse_fact(old_fact, known, field="edit.original_fact")
    old, remarks = old_target(target, old_target_name)
    fields: dict[str, Any] = {
        "id": name,
        "subject": subject,
        "prompt": relation.template,
        "target_new": target,
        "target_true": old,
        "relation_id": relation.property or None,
        "subject_id": _entity_id(row.edit.subject_id),
        "target_new_id": _entity_id(row.edit.target_id),
    }
    if old_fact and old:
        fields["target_true_id"] = _entity_id(old_fact.target_id)
    names = dict.fromkeys(("subject", "target_new", "target_true"), "edit.prompt")
    return build_edit(fields, field_names=names), remarks


def _entity_id(value: object) -> object:
    """Return a value that is an entity's id; None for any other value, such as a date."""
    return value if is_item_id(value) else None


def _parse_tests(row: RippleRow) -> tuple[list[Probe], int]:
    """Parse each test as a probe; the number is of tests left out, which have a query without a usable answer."""
    probes = []
    dropped = 0
    for field, code in CRITERIA.items():
        for test in getattr(row, field):
            queries = tuple(map(_parse_query, test.test_queries))
            conditions = tuple(map(_parse_query, test.condition_queries))
            if not queries or not all(query.answers for query in (*queries, *conditions)):
                dropped += 1
                continue
            passes: Literal["any", "all"] = "any" if test.test_condition == "OR" else "all"
            probes.append(Probe(measures=f"ripple.{code}", queries=queries, passes=passes, conditions=conditions))
    return probes, dropped


def relations() -> Mapping[str, Relation]:
    """Return the packaged table of relations, by name."""
    text = files("kg_edit").joinpath("data", "ripple_relations.tsv").read_text(encoding="utf-8")
    lines = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    return {name: Relation(property_, template) for name, property_, template in lines[1:]}


def _parse_fact(fact: RippleFact, known: Mapping[str, Relation], *, field: str) -> tuple[str, str, Relation]:
    """Return the subject, the target and the relation of a fact's sentence."""
    if fact.relation not in known:
        unknown = f"unknown relation {fact.relation!r}{did_you_mean(fact.relation, map(str.lower, known))}"
        raise EditError([Fault(f"{field}.relation", f"{unknown}; known: {', '.join(known)}")])
    relation = known[fact.relation]
    # Where the words after the subject occur twice, the name of a work has the first ("Life is Beautiful is ...").
    pattern = re.escape(relation.template).replace(r"\{\}", "(.+)") + r" (.+?)\.?"
    match = re.fullmatch(pattern, fact.prompt.strip())
    if not match:
        expected = f"expected {relation.template!r} with the subject, then the target and a full stop"
        raise EditError([Fault(f"{field}.prompt", f"found {fact.prompt[:80]!r}; {expected}")])
    return match[1], match[2], relation


def _parse_query(question: PublishedQuery) -> Query:
    """Return a query that requires every answer, by any of its names.

    One-letter names do not count (one-digit names do), as in the authors' program.
    """
    right = []
    for answer in question.answers:
        names = dict[str, None]()  # in order, each once
        for name in (answer.value or "", *answer.aliases):
            if len(name.strip()) > 1 or name.strip().isdigit():
                names[name] = None
        if names:
            right.append(tuple(names))
    return Query(prompt=question.prompt, answers=tuple(right), every=True, form="sentence")


RIPPLE_EDITS = Dataset(
    name="ripple-edits",
    about="RippleEdits (Cohen et al. 2024): popular, random, recent",
    measures=("efficacy", *(f"ripple.{code}" for code in CRITERIA.values())),
    parser=lambda: partial(parse, known=relations()),
    edits_have=("target_true",),
)

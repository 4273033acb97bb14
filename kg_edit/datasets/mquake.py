"""MQuAKE (Zhong et al. 2023): a case has one to four edits, and a question whose answer follows from several facts.

CF, CF-3k, CF-3k-v2, T and hard share one form; MQuAKE-Remastered (Zhong et al. 2025) has the same fields, not nested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from kg_edit.datasets.building import built_edit, fields_of, old_target
from kg_edit.datasets.reading import Dataset, RawRecord
from kg_edit.datasets.record import BenchmarkRecord, Probe, Query, Remark, Triple
from kg_edit.edits.edit import Edit, Name, PropertyId, Record, Text, Texts
from kg_edit.edits.rows import Target
from kg_edit.errors import EditError, Fault
from kg_edit.text.matching import normalised

Triples = Annotated[tuple[Triple, ...], Field(strict=False)]
# Unchecked names: the published files have empty aliases, which the lint reports.
Aliases = Annotated[tuple[str, ...], Field(strict=False)]


class Rewrite(Record):
    """An edit of a case: the prompt with {} for the subject, the old and the new object, and the fact as a question."""

    prompt: Name
    relation_id: PropertyId
    target_new: Target
    target_true: Target
    subject: Name
    question: Text


class Hop(Record):
    """One fact of a chain, as a question and as a sentence."""

    question: Text
    cloze: Text
    answer: Name
    answer_alias: Aliases = ()


class Chains(Record):
    """The chains of facts, as ids and in words, that lead to a case's answer before and after the edits."""

    triples: Triples
    new_triples: Triples
    edit_triples: Triples
    triples_labeled: Triples = ()
    new_triples_labeled: Triples = ()
    edit_triples_idx: object = None


class CaseRow(Record):
    """A case as published: edits, the multi-hop question in three wordings, the answers, and their hops."""

    case_id: int | Name
    requested_rewrite: Annotated[tuple[Rewrite, ...], Field(strict=False, min_length=1)]
    questions: Annotated[Texts, Field(min_length=1)]
    answer: Name
    answer_alias: Aliases = ()
    new_answer: Name
    new_answer_alias: Aliases = ()
    single_hops: Annotated[tuple[Hop, ...], Field(strict=False)]
    new_single_hops: Annotated[tuple[Hop, ...], Field(strict=False, min_length=1)]
    orig: Chains
    answer_extended: object = None
    split: object = None


_FLAT = {f"orig_{field}": field for field in ("triples", "triples_labeled")} | {
    field: field for field in ("new_triples", "new_triples_labeled", "edit_triples", "edit_triples_idx")
}


def nested(row: RawRecord) -> RawRecord:
    """Convert a row of MQuAKE-Remastered to the nested form of the other files.

    Raises:
        EditError: its edits are no list.
    """
    if "orig" in row or not {"orig_triples", "edit_triples"} & set(row):
        return row
    orig = {field: row[flat] for flat, field in _FLAT.items() if flat in row}
    rest = {field: value for field, value in row.items() if field not in _FLAT}
    rewrites = row.get("requested_rewrite")
    if not isinstance(rewrites, list):
        raise EditError([Fault("requested_rewrite", "expected a list of edits")])
    return {**rest, "requested_rewrite": [_nested_targets(rewrite) for rewrite in rewrites], "orig": orig}


def _nested_targets(rewrite: Mapping[str, Any]) -> dict[str, Any]:
    fields = dict(rewrite)
    for target in ("target_new", "target_true"):
        parts = {part: fields.pop(f"{target}_{part}") for part in ("str", "id") if f"{target}_{part}" in fields}
        fields |= {target: parts} if parts else {}
    return fields


def parse(row: RawRecord, name: str) -> BenchmarkRecord:
    """Parse a case as a record. Its probes are multihop (three wordings of one question), edit and hops.

    The edit probes state each edit; hops asks all facts of the new chain. An edit's subject id is taken from the
    matching triple. Several edits of a case are called ``ID.0``, ``ID.1``, ….

    Raises:
        EditError: a field is wrong; the message names it.
    """
    case = fields_of(CaseRow, nested(row))
    several = len(case.requested_rewrite) > 1
    parts = [_edit(case, place, f"{name}.{place}" if several else name) for place in range(len(case.requested_rewrite))]
    remarks = [remark for _, found in parts for remark in found]
    if _blank(case):
        remarks.append(Remark(kind="empty-answer", message="an alias of an answer is empty"))
    edits = tuple(edit for edit, _ in parts)
    return BenchmarkRecord(
        id=name,
        edits=edits,
        probes=(*_questions(case), *(_stated(case, edit) for edit in edits), *_hops(case)),
        chain=case.orig.triples,
        new_chain=case.orig.new_triples,
        form="MQuAKE",
        remarks=tuple(remarks),
    )


def _edit(case: CaseRow, place: int, name: str) -> tuple[Edit, tuple[Remark, ...]]:
    rewrite = case.requested_rewrite[place]
    old, remarks = old_target(rewrite.target_new.str, rewrite.target_true.str)
    fields: dict[str, Any] = {
        "id": name,
        "subject": rewrite.subject,
        "prompt": rewrite.prompt,
        "target_new": rewrite.target_new.str,
        "target_new_id": rewrite.target_new.id,
        "target_true": old,
        "target_true_id": rewrite.target_true.id if old else None,
        "relation_id": rewrite.relation_id,
        "subject_id": _subject_id(case, place),
    }
    path = f"requested_rewrite[{place}]"
    names = {"target_new": f"{path}.target_new.str", "target_true": f"{path}.target_true.str"}
    return built_edit(fields, names={field: f"{path}.{field}" for field in fields} | names), remarks


def _subject_id(case: CaseRow, place: int) -> str | None:
    """The subject's id from the edit's triple; edits of several subjects towards one object have theirs in order."""
    facts = [(rewrite.relation_id, rewrite.target_new.id) for rewrite in case.requested_rewrite]
    subjects = [subject for subject, *fact in case.orig.edit_triples if tuple(fact) == facts[place]]
    earlier = facts[:place].count(facts[place])
    return subjects[earlier] if earlier < len(subjects) else None


def _questions(case: CaseRow) -> tuple[Probe, ...]:
    right = _right(case.new_answer, case.new_answer_alias)
    new = {normalised(name) for name in right}
    old = tuple(name for name in _right(case.answer, case.answer_alias) if normalised(name) not in new)
    queries = tuple(
        Query(prompt=question, answers=(right,), others=(case.answer,), old=old) for question in case.questions
    )
    return (Probe(measures="multihop", queries=queries, passes="any"),)


def _stated(case: CaseRow, edit: Edit) -> Probe:
    """A probe of the edit's own statement; the answer's aliases are those of the hop that the edit changes."""
    hop = next((hop for hop in case.new_single_hops if hop.answer == edit.target_new), None)
    right = _right(edit.target_new, hop.answer_alias if hop else ())
    return Probe(measures="edit", queries=(Query(prompt=edit.text, answers=(right,), form="sentence"),))


def _hops(case: CaseRow) -> tuple[Probe, ...]:
    queries = tuple(
        Query(prompt=hop.question, answers=(_right(hop.answer, hop.answer_alias),)) for hop in case.new_single_hops
    )
    return (Probe(measures="hops", queries=queries),)


def _right(name: str, aliases: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([name, *(alias for alias in aliases if alias.strip())]))


def _blank(case: CaseRow) -> bool:
    hops = (*case.single_hops, *case.new_single_hops)
    lists = [case.answer_alias, case.new_answer_alias, *(hop.answer_alias for hop in hops)]
    return any(not alias.strip() for aliases in lists for alias in aliases)


MQUAKE = Dataset(
    name="mquake",
    about="MQuAKE (Zhong et al. 2023): CF, CF-3k, CF-3k-v2, T, hard; MQuAKE-Remastered",
    measures=("multihop", "edit", "hops"),
    parser=lambda: parse,
    edits_have=("target_true",),
)

"""MQuAKE (Zhong et al. 2023): a case has one to four edits, and a question whose answer follows from several facts.

CF, CF-3k, CF-3k-v2, T and hard share one form; MQuAKE-Remastered (Zhong et al. 2025) has the same fields, not nested.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from kg_edit.edits.edit import Edit, Name, PropertyId, Record, Text, Texts
from kg_edit.edits.record import BenchmarkRecord, Probe, Query, Remark, Triple
from kg_edit.edits.rows import Target
from kg_edit.errors import EditError, Fault
from kg_edit.evaluation.datasets.building import build_edit, check_fields, old_target
from kg_edit.evaluation.datasets.reading import Dataset, RawRecord
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


_FLAT = {  # field of MQuAKE-Remastered -> field of `Chains`
    "orig_triples": "triples",
    "orig_triples_labeled": "triples_labeled",
    "new_triples": "new_triples",
    "new_triples_labeled": "new_triples_labeled",
    "edit_triples": "edit_triples",
    "edit_triples_idx": "edit_triples_idx",
}


def nest(row: RawRecord) -> RawRecord:
    """Convert a row of MQuAKE-Remastered to the nested form of the other files."""
    if "orig" in row or not {"orig_triples", "edit_triples"} & set(row):
        return row
    flat = row.get("requested_rewrite")
    if not isinstance(flat, list):
        raise EditError([Fault("requested_rewrite", "expected a list of edits")])
    rest = {field: value for field, value in row.items() if field not in _FLAT}
    orig = {field: row[flat_name] for flat_name, field in _FLAT.items() if flat_name in row}
    return {**rest, "requested_rewrite": [_nest_targets(rewrite) for rewrite in flat], "orig": orig}


def _nest_targets(rewrite: object) -> object:
    """Convert target_new_str and target_new_id to {"target_new": {"str": …, "id": …}}, and target_true likewise."""
    if not isinstance(rewrite, dict):  # `parse` refuses it, with its place
        return rewrite
    fields = dict(rewrite)
    for target in ("target_new", "target_true"):
        parts = {}
        for part in ("str", "id"):
            if f"{target}_{part}" in fields:
                parts[part] = fields.pop(f"{target}_{part}")
        if parts:
            fields[target] = parts
    return fields


def parse(row: RawRecord, name: str) -> BenchmarkRecord:
    """Parse a case as a record. Its probes are multihop (three wordings of one question), edit and hops.

    The edit probes state each edit; hops asks all facts of the new chain. An edit's subject id is taken from the
    matching triple. Several edits of a case are called ``ID.0``, ``ID.1``, ….
    """
    case = check_fields(CaseRow, nest(row))
    edits = list[Edit]()
    statements = list[Probe]()
    remarks = list[Remark]()
    for index, rewrite in enumerate(case.requested_rewrite):
        old, old_remarks = old_target(rewrite.target_new.label, rewrite.target_true.label)
        remarks += old_remarks
        edit = _build_edit(case, index, name=name, old=old)
        edits.append(edit)
        right = _list_names(edit.target_new, _aliases_of_target(case, edit.target_new))
        query = Query(prompt=edit.text, answers=(right,), form="sentence")
        statements.append(Probe(measures="edit", queries=(query,)))
    if _has_blank_alias(case):
        remarks.append(Remark(kind="empty-answer", message="an alias of an answer is empty"))
    multihop = Probe(measures="multihop", queries=tuple(_ask_multihop(case)), passes="any")
    hops = Probe(measures="hops", queries=tuple(map(_ask_hop, case.new_single_hops)))
    return BenchmarkRecord(
        id=name,
        edits=tuple(edits),
        probes=(multihop, *statements, hops),
        chain=case.orig.triples,
        new_chain=case.orig.new_triples,
        form="MQuAKE",
        remarks=tuple(remarks),
    )


def _build_edit(case: CaseRow, index: int, *, name: str, old: str | None) -> Edit:
    """Build one edit of a case; ``old`` is its old target, if that differs from the new one."""
    rewrite = case.requested_rewrite[index]
    several = len(case.requested_rewrite) > 1
    fields: dict[str, Any] = {
        "id": f"{name}.{index}" if several else name,
        "subject": rewrite.subject,
        "prompt": rewrite.prompt,
        "target_new": rewrite.target_new.label,
        "target_new_id": rewrite.target_new.id,
        "target_true": old,
        "target_true_id": rewrite.target_true.id if old else None,
        "relation_id": rewrite.relation_id,
        "subject_id": _find_subject(case, index),
    }
    # A fault of the edit is reported under the name of the row's field.
    path = f"requested_rewrite[{index}]"
    row_fields = {field: f"{path}.{field}" for field in fields}
    row_fields["target_new"] = f"{path}.target_new.str"
    row_fields["target_true"] = f"{path}.target_true.str"
    row_fields["subject_id"] = "orig.edit_triples"
    return build_edit(fields, field_names=row_fields)


def _find_subject(case: CaseRow, index: int) -> str | None:
    """Find the subject id of an edit in the triples, by relation and new object; None if there is no such triple."""
    facts = [(rewrite.relation_id, rewrite.target_new.id) for rewrite in case.requested_rewrite]
    subjects = []
    for subject, relation, target in case.orig.edit_triples:
        if (relation, target) == facts[index]:
            subjects.append(subject)
    # Edits of several subjects towards one object have their triples in the order of the edits: the second such edit
    # has the second such triple.
    earlier = facts[:index].count(facts[index])
    if earlier < len(subjects):
        return subjects[earlier]
    return None


def _aliases_of_target(case: CaseRow, target: str) -> tuple[str, ...]:
    """Return the aliases of an edit's new target: those of the first hop that it answers."""
    for hop in case.new_single_hops:
        if hop.answer == target:
            return hop.answer_alias
    return ()


def _ask_multihop(case: CaseRow) -> list[Query]:
    """Return the case's question in each of its wordings, with the names of the new and of the old answer.

    A name that both answers have is right after the edits, so it is not listed as a name of the old answer.
    """
    right = _list_names(case.new_answer, case.new_answer_alias)
    right_spellings = {normalised(name) for name in right}
    old_names = _list_names(case.answer, case.answer_alias)
    old = tuple(name for name in old_names if normalised(name) not in right_spellings)
    return [Query(prompt=text, answers=(right,), others=(case.answer,), old=old) for text in case.questions]


def _ask_hop(hop: Hop) -> Query:
    """Return the question about one fact of the new chain."""
    return Query(prompt=hop.question, answers=(_list_names(hop.answer, hop.answer_alias),))


def _has_blank_alias(case: CaseRow) -> bool:
    aliases = [*case.answer_alias, *case.new_answer_alias]
    for hop in (*case.single_hops, *case.new_single_hops):
        aliases += hop.answer_alias
    return not all(alias.strip() for alias in aliases)


def _list_names(name: str, aliases: Sequence[str]) -> tuple[str, ...]:
    """Return the name, then the aliases that are not blank, each once."""
    names = [name]
    names += [alias for alias in aliases if alias.strip()]
    return tuple(dict.fromkeys(names))


MQUAKE = Dataset(
    name="mquake",
    about="MQuAKE (Zhong et al. 2023): CF, CF-3k, CF-3k-v2, T, hard; MQuAKE-Remastered",
    measures=("multihop", "edit", "hops"),
    parser=lambda: parse,
    edits_have=("target_true",),
)

"""MQuAKE (Zhong et al. 2023): one to four edits a case, and a question that several facts together answer.

CF, CF-3k, CF-3k-v2, T and hard share a form; MQuAKE-Remastered (Zhong et al. 2025) writes the same fields flat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kg_edit.datasets.building import built_edit, fields_of, old_target
from kg_edit.datasets.mquake_rows import CaseRow, Rewrite, nested
from kg_edit.datasets.reading import Row
from kg_edit.datasets.record import BenchmarkRecord, Probe, Query, Remark, Triple
from kg_edit.edits.edit import Edit


def parse(row: Row, name: str) -> BenchmarkRecord:
    """The record of a case: multihop (three wordings of one question), edit (a statement an edit), hops (all facts).

    An edit's subject id is that of its triple. Several edits of a case are called ``ID.0``, ``ID.1``, ….

    Raises:
        EditError: a field is wrong; names it.
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
        "subject_id": _subject_id(case.orig.edit_triples, rewrite),
    }
    path = f"requested_rewrite[{place}]"
    names = {"target_new": f"{path}.target_new.str", "target_true": f"{path}.target_true.str"}
    return built_edit(fields, names={field: f"{path}.{field}" for field in fields} | names), remarks


def _subject_id(triples: Sequence[Triple], rewrite: Rewrite) -> str | None:
    wanted = (rewrite.relation_id, rewrite.target_new.id)
    return next((subject for subject, *fact in triples if tuple(fact) == wanted), None)


def _questions(case: CaseRow) -> tuple[Probe, ...]:
    right, others = _right(case.new_answer, case.new_answer_alias), (case.answer,)
    queries = tuple(Query(prompt=question, answers=(right,), others=others) for question in case.questions)
    return (Probe(measures="multihop", queries=queries, passes="any"),)


def _stated(case: CaseRow, edit: Edit) -> Probe:
    """The edit's own statement, whose answer has the aliases of the hop that it changes."""
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

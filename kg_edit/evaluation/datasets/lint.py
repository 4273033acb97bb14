"""Find faults of a benchmark file: in a row, in a record, between records, and between records and a graph's labels.

`lint`, at the end, reports all of them as `Finding`; the functions before it find one sort of faults each.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from kg_edit.edits.edit import IS_AN_ID, Edit, is_item_id, is_property_id
from kg_edit.edits.files import LabelSource
from kg_edit.edits.record import BenchmarkRecord, Query
from kg_edit.evaluation.datasets.building import ABSENT
from kg_edit.evaluation.datasets.reading import FileContent
from kg_edit.text.matching import mentions, normalised

Kind = Literal[
    "bad-field",  # a row can't be read: a field is missing, unknown or of another type
    "unlabelled-id",  # a Wikidata id is in the place of a label, or the graph has no label for an id
    "other-label",  # the graph has another name for an entity: a wrong name, or the wrong entity
    "missing-subject",  # the subject does not occur in its prompt
    "conflicting-edits",  # two records edit one subject and relation to different targets
    "conflicting-chain",  # a record's answer depends on a fact that another record edits to something else
    "duplicated-question",  # a question is asked twice
    "target-in-prompt",  # the new target is in the edit's prompt
    "answer-in-question",  # the answer is in its question
    "answer-unchanged",  # the answer after the edits is the one before them
    "same-target",  # the new target is also the old one
    "empty-answer",  # an answer or an alias is empty
]
_IN_TEXT = re.compile(r"\bQ[1-9][0-9]{3,}\b")  # not the Audi Q5
# Questions whose answers follow from the edits.
_CHANGED = ("multihop", "portability", "ripples-known", "ripples-unknown", "ripples-edit")


@dataclass(frozen=True)
class Finding:
    """A fault: its kind, the id of the record, and a message."""

    kind: Kind
    id: str
    message: str


def find_edit_conflicts(records: Sequence[BenchmarkRecord]) -> Iterator[Finding]:
    """Yield facts that two records edit to different targets, reported for the later record."""
    # (subject, relation) -> new target in lower case -> the id of the first record with it, and the new target
    targets: dict[tuple[str, str], dict[str, tuple[str, str]]] = defaultdict(dict)
    for record in records:
        for edit in record.edits:
            fact = edit.subject.casefold(), edit.relation_id or edit.prompt
            targets[fact].setdefault(edit.target_new.casefold(), (record.id, edit.target_new))
    for by_target in targets.values():
        (first_id, first_target), *others = by_target.values()
        for record_id, target in others:
            message = f"to {target!r} here, to {first_target!r} in record {first_id}"
            yield Finding("conflicting-edits", record_id, message)


def find_chain_conflicts(records: Sequence[BenchmarkRecord]) -> Iterator[Finding]:
    """Yield facts of a record's chain (as ids) that another record edits to something else."""
    # (subject's id, relation's id) -> new target's id -> the id of the first record with it, and its edit
    edited: dict[tuple[str, str], dict[str, tuple[str, Edit]]] = defaultdict(dict)
    for record in records:
        for edit in record.edits:
            if edit.subject_id and edit.relation_id and edit.target_new_id:
                edited[edit.subject_id, edit.relation_id].setdefault(edit.target_new_id, (record.id, edit))
    for record in records:
        for subject, relation, target in record.new_chain:
            for other_target, (other_id, edit) in edited.get((subject, relation), {}).items():
                if other_target != target:
                    message = f"depends on {subject} {relation} {target}, "
                    message += f"but record {other_id} edits {edit.text!r} to {edit.target_new!r}"
                    yield Finding("conflicting-chain", record.id, message)


def find_duplicates(records: Sequence[BenchmarkRecord]) -> Iterator[Finding]:
    """Yield questions that occur twice in a record or in two records, reported for the later one.

    It compares the questions of the edits, and those of the groups multihop and recall. In other groups, records may
    share a question on purpose, such as one about an unrelated fact that must stay as it is.
    """
    first: dict[str, str] = {}  # question -> the id of the first record that asks it
    for record in records:
        questions = list[str]()
        for edit in record.edits:
            questions += [question.question for question in edit.portability]
        for probe in record.probes:
            if probe.measures in ("multihop", "recall"):
                questions += [query.prompt for query in probe.queries]
        for text in questions:
            if text in first:
                if first[text] == record.id:
                    where = "twice in this record"
                else:
                    where = f"in record {first[text]} too"
                yield Finding("duplicated-question", record.id, f"{text!r} {where}")
            first.setdefault(text, record.id)


def find_label_faults(records: Sequence[BenchmarkRecord], labels: LabelSource) -> Iterator[Finding]:
    """Yield ids that have no label, or a label other than the entity's name; each once, for its first record."""
    ids: dict[str, str] = {}  # id -> the id of its first record
    entities: dict[tuple[str, str], str] = {}  # (id, name) of an entity -> the id of its first record
    for record in records:
        record_ids = list[str]()
        for edit in record.edits:
            record_ids.append(edit.relation_id or "")
            for entity, name in _list_entities(edit):
                record_ids.append(entity)
                entities.setdefault((entity, name), record.id)
        for triple in (*record.chain, *record.new_chain):
            record_ids += triple
        for id_ in record_ids:
            if is_item_id(id_) or is_property_id(id_):
                ids.setdefault(id_, record.id)

    label_of = labels.labels(sorted(ids))
    for id_, record_id in ids.items():
        if id_ not in label_of:
            yield Finding("unlabelled-id", record_id, f"the graph has no label for {id_}")
    for (entity, name), record_id in entities.items():
        if entity in label_of and normalised(label_of[entity]) != normalised(name):
            yield Finding("other-label", record_id, f"{name!r}, but the graph calls {entity} {label_of[entity]!r}")


def _list_entities(edit: Edit) -> tuple[tuple[str, str], ...]:
    """Return (id, name) of each entity of an edit that has both."""
    pairs = (
        (edit.subject_id, edit.subject),
        (edit.target_new_id, edit.target_new),
        (edit.target_true_id, edit.target_true),
    )
    return tuple((id_, name) for id_, name in pairs if id_ and name)


def find_faults_in(record: BenchmarkRecord) -> Iterator[Finding]:
    """Yield faults inside a record: ids in the place of names, prompts that contain the answer, unchanged answers."""
    for edit in record.edits:
        if mentions(edit.text, edit.target_new):
            yield Finding("target-in-prompt", record.id, f"{edit.target_new!r} in {edit.text[:100]!r}")
        names = (edit.subject, edit.target_new, edit.target_true or "")
        yield from _find_ids(record, (edit.prompt, *names, *edit.paraphrases))
        for question in edit.portability:
            right = (question.answer, *question.aliases)
            yield from _find_ids(record, (question.question, *right))
            yield from _check_answer(record, Query(prompt=question.question, answers=(right,)), before=())
    for probe in record.probes:
        for query in (*probe.queries, *probe.conditions):
            yield from _find_ids(record, (query.prompt, *query.right_names))
            if probe.family not in _CHANGED:
                continue
            before = query.old
            # The `others` of an MQuAKE question are the old answer. Those of a Ripples question are drawn from the
            # objects of its relation, so only its `old` ones are answers before the edit.
            if not probe.family.startswith("ripples-"):
                before = (*before, *query.others)
            yield from _check_answer(record, query, before=before)


def _check_answer(record: BenchmarkRecord, query: Query, *, before: Sequence[str]) -> Iterator[Finding]:
    """Yield a fault if the question gives its answer, or if the answer names one of those ``before`` the edits."""
    mentioned = [names[0] for names in query.answers if mentions(query.prompt, names[0])]
    if mentioned:
        yield Finding("answer-in-question", record.id, f"{mentioned[0]!r} in {query.prompt!r}")
    right = query.right_names
    spellings = {normalised(name) for name in right}
    unchanged = [name for name in before if normalised(name) in spellings]
    if unchanged:
        message = f"{unchanged[0]!r} names the answer before the edits, and {right[0]!r} after them"
        yield Finding("answer-unchanged", record.id, message)


def _find_ids(record: BenchmarkRecord, texts: Iterable[str]) -> Iterator[Finding]:
    """Yield the texts that are ids, or have one in them, where a name is expected."""
    for text in texts:
        if is_item_id(text) or is_property_id(text) or _IN_TEXT.search(text):
            yield Finding("unlabelled-id", record.id, f"found {text[:100]!r}; expected a name in the place of the id")


def lint(content: FileContent, *, labels: LabelSource | None = None) -> tuple[Finding, ...]:
    """Return the faults of a file's content, each once, sorted by kind, then in the file's order.

    With ``labels``, also check whether the ids of edits and chains have labels, and whether these equal the edits'
    names.
    """
    records = content.records
    findings = list[Finding]()
    for problem in content.problems:
        # A fault has no kind; only the words of its message tell which one it is.
        message = problem.fault.message
        kind: Kind = "bad-field"
        if ABSENT in message:
            kind = "missing-subject"
        elif IS_AN_ID in message:
            kind = "unlabelled-id"
        findings.append(Finding(kind, problem.id, problem.message))
    for record in records:
        findings += [Finding(remark.kind, record.id, remark.message) for remark in record.remarks]
    for record in records:
        findings += find_faults_in(record)
    findings += find_edit_conflicts(records)
    findings += find_chain_conflicts(records)
    findings += find_duplicates(records)
    if labels:
        findings += find_label_faults(records, labels)
    order = {kind: rank for rank, kind in enumerate(get_args(Kind))}
    return tuple(sorted(dict.fromkeys(findings), key=lambda finding: order[finding.kind]))

"""Faults that show when the records of a file are laid side by side, or beside a graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from kg_edit.datasets.findings import Finding
from kg_edit.datasets.record import BenchmarkRecord
from kg_edit.edits.edit import Edit, is_entity_id, is_property_id
from kg_edit.text.matching import normalised


class Labels(Protocol):
    """Whatever knows the labels of ids, as `wikidata_cache.WikidataCache` does."""

    def labels(self, ids: Sequence[str], /) -> Mapping[str, str]:
        """The labels of those ids that have one."""


def edit_conflicts(records: Sequence[BenchmarkRecord]) -> Iterator[Finding]:
    """Facts that two records edit to different targets; reported of the later one."""
    targets: dict[tuple[str, str], dict[str, tuple[str, str]]] = defaultdict(dict)
    for record in records:
        for edit in record.edits:
            targets[_fact(edit)].setdefault(edit.target_new.casefold(), (record.id, edit.target_new))
    for (_, _), found in targets.items():
        (first, target), *others = found.values()
        for other, another in others:
            yield Finding("conflicting-edits", other, f"to {another!r} here, to {target!r} in record {first}")


def _fact(edit: Edit) -> tuple[str, str]:
    return edit.subject.casefold(), edit.relation_id or edit.prompt


def chain_conflicts(records: Sequence[BenchmarkRecord]) -> Iterator[Finding]:
    """Facts of chains, as ids, that another record's edit denies."""
    edited: dict[tuple[str, str], dict[str, tuple[str, Edit]]] = defaultdict(dict)
    for record in records:
        for edit in record.edits:
            if edit.subject_id and edit.relation_id and edit.target_new_id:
                edited[edit.subject_id, edit.relation_id].setdefault(edit.target_new_id, (record.id, edit))
    for record in records:
        for subject, relation, target in record.new_chain:
            for to, (other, edit) in edited.get((subject, relation), {}).items():
                if to != target:
                    denied = f"but record {other} edits {edit.text!r} to {edit.target_new!r}"
                    yield Finding("conflicting-chain", record.id, f"rests on {subject} {relation} {target}, {denied}")


def duplicates(records: Sequence[BenchmarkRecord]) -> Iterator[Finding]:
    """Questions that are asked twice."""
    first: dict[str, str] = {}
    for record in records:
        questions = [question.question for edit in record.edits for question in edit.portability]
        probes = (probe for probe in record.probes if probe.measures in ("multihop", "recall"))
        for text in [*questions, *(query.prompt for probe in probes for query in probe.queries)]:
            if text in first:
                where = "twice in this record" if first[text] == record.id else f"in record {first[text]} too"
                yield Finding("duplicated-question", record.id, f"{text!r} {where}")
            first.setdefault(text, record.id)


def unlabelled(records: Sequence[BenchmarkRecord], labels: Labels) -> Iterator[Finding]:
    """Ids without a label, or with another one than their name; each once, with the first record that has it."""
    wanted: dict[str, str] = {}
    names: dict[tuple[str, str], str] = {}
    for record in records:
        for edit in record.edits:
            names |= {key: record.id for key in _named(edit) if key not in names}
        relations = (edit.relation_id or "" for edit in record.edits)
        chained = (id_ for triple in (*record.chain, *record.new_chain) for id_ in triple)
        for id_ in (*(id_ for edit in record.edits for id_, _ in _named(edit)), *relations, *chained):
            if is_entity_id(id_) or is_property_id(id_):
                wanted.setdefault(id_, record.id)
    known = labels.labels(sorted(wanted))
    for id_, record_id in wanted.items():
        if id_ not in known:
            yield Finding("unlabelled-id", record_id, f"the graph has no label for {id_}")
    for (id_, name), record_id in names.items():
        if id_ in known and normalised(known[id_]) != normalised(name):
            yield Finding("other-label", record_id, f"{name!r}, but the graph calls {id_} {known[id_]!r}")


def _named(edit: Edit) -> tuple[tuple[str, str], ...]:
    """The entities of an edit that have an id: it, and the name."""
    found = (
        (edit.subject_id, edit.subject),
        (edit.target_new_id, edit.target_new),
        (edit.target_true_id, edit.target_true),
    )
    return tuple((id_, name) for id_, name in found if id_ and name)

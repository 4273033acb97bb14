"""What is wrong with a benchmark file: faults of its rows, and contradictions between them."""

from __future__ import annotations

from typing import get_args

from kg_edit.datasets.building import ABSENT
from kg_edit.datasets.findings import Finding, Kind
from kg_edit.datasets.lint_across import Labels, chain_conflicts, duplicates, edit_conflicts, unlabelled
from kg_edit.datasets.lint_record import in_record
from kg_edit.datasets.reading import Problem, Reading

_SHOULD_BE_A_LABEL = "is a Wikidata id"


def lint(reading: Reading, *, labels: Labels | None = None) -> tuple[Finding, ...]:
    """The faults of what was read from a file, by kind, then in the file's order.

    With ``labels`` also the ids of edits and chains that have no label there, or another one than the edit's name.
    """
    records = reading.records
    found = [
        *map(_problem, reading.problems),
        *(Finding(remark.kind, record.id, remark.message) for record in records for remark in record.remarks),
        *(finding for record in records for finding in in_record(record)),
        *edit_conflicts(records),
        *chain_conflicts(records),
        *duplicates(records),
        *(unlabelled(records, labels) if labels else ()),
    ]
    order = {kind: place for place, kind in enumerate(get_args(Kind))}
    return tuple(sorted(dict.fromkeys(found), key=lambda finding: order[finding.kind]))


def _problem(problem: Problem) -> Finding:
    message = problem.fault.message
    kind: Kind = "bad-field"
    if ABSENT in message:
        kind = "missing-subject"
    elif _SHOULD_BE_A_LABEL in message:
        kind = "unlabelled-id"
    return Finding(kind, problem.id, f"record {problem.row}, {problem.fault}")

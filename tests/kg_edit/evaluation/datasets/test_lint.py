from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kg_common import json_text
from kg_edit.evaluation.datasets import find_dataset, guess_dataset, known_datasets
from kg_edit.evaluation.datasets.lint import Finding, lint
from tests.kg_edit.evaluation.datasets.rows import FACT, FLAT, MQUAKE, POPQA, RIPPLES, ZSRE, written
from tests.kg_edit.evaluation.datasets.test_reading import ROWS

OWN = {"subject": "Ada", "prompt": "{} lives in", "target_new": "Lyon"}


class Known:
    """Labels of some ids."""

    def __init__(self, **labels: str) -> None:
        self._labels = labels

    def labels(self, ids: Sequence[str], /) -> Mapping[str, str]:
        return {id_: self._labels[id_] for id_ in ids if id_ in self._labels}


def faults(folder: Path, dataset: str, *rows: dict[str, Any]) -> list[tuple[str, str]]:
    reading = find_dataset(dataset).read(written(folder, *rows))
    return [(finding.kind, finding.id) for finding in lint(reading)]


def test_lint_finds_nothing_in_good_files(tmp_path: Path) -> None:
    for name in ("counterfact", "counterfact-plus", "mquake", "zsre", "popqa", "entity-inferences", "edits"):
        assert faults(tmp_path, name, ROWS[name]) == [], name


@pytest.mark.parametrize(
    ("dataset", "row", "change", "kind"),
    [
        ("counterfact", FLAT, {"target_new": "Q42"}, "unlabelled-id"),
        ("edits", OWN, {"portability": [{"question": "Which city is it?", "answer": "Q90"}]}, "unlabelled-id"),
        ("knowedit", FACT, {"portability": {"Reasoning": [{"prompt": "x", "ground_truth": "Q42"}]}}, "unlabelled-id"),
        ("zsre", ZSRE, {"rephrase": "Who is Q1234567's sister?"}, "unlabelled-id"),
        ("counterfact", FLAT, {"subject": "Ada"}, "missing-subject"),
        ("counterfact", FLAT, {"target_new": "mother tongue"}, "target-in-prompt"),
        ("counterfact", FLAT, {"target_new": "French"}, "same-target"),
        ("mquake", MQUAKE, {"questions": ["A?", "B?", "A?"]}, "duplicated-question"),
        ("mquake", MQUAKE, {"questions": ["A?", "B?", "Is it Peru?"]}, "answer-in-question"),
        ("mquake", MQUAKE, {"new_answer_alias": ["united states of america"]}, "answer-unchanged"),
        ("mquake", MQUAKE, {"new_answer_alias": [" "]}, "empty-answer"),
        ("mquake", MQUAKE, {"new_answer": " "}, "bad-field"),
        ("popqa", POPQA, {"id": "5"}, "bad-field"),
    ],
)
def test_lint_finds_each_fault_of_a_record(
    dataset: str, row: dict[str, Any], change: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    assert kind in {fault for fault, _ in faults(tmp_path, dataset, {**row, **change})}
    assert kind not in {fault for fault, _ in faults(tmp_path, dataset, row)}


def test_lint_names_the_answer_that_stays_and_no_drawn_object(tmp_path: Path) -> None:
    row = {**MQUAKE, "new_answer_alias": ["United States of America"]}
    (finding,) = lint(find_dataset("mquake").read(written(tmp_path, row)))
    assert finding.message == "'United States of America' names the answer before the edits, and 'Peru' after them"
    # A spelling of the answer among the objects that are drawn is no answer before the edits
    question = {"kind": "two-hop", "start": "Rome", "hops": ["P17", "P36"], "answers": ["Tōkyō"], "old": ["Rome"]}
    header = {**RIPPLES["header"], "choices": {"P36": ["Tokyo", "Oslo"]}}
    drawn = {**RIPPLES, "questions": [question], "header": header}
    assert faults(tmp_path, "ripples", drawn) == []


def test_lint_accepts_names_that_look_like_ids(tmp_path: Path) -> None:
    assert faults(tmp_path, "counterfact", {**FLAT, "rephrase_prompt": "The Audi Q5 and the Volvo P1800 are"}) == []


def test_lint_finds_two_targets_of_one_fact(tmp_path: Path) -> None:
    rows = (FLAT, {**FLAT, "case_id": 4, "target_new": "Greek"}, {**FLAT, "case_id": 5, "target_new": "english"})
    assert faults(tmp_path, "counterfact", *rows) == [("conflicting-edits", "4")]


def test_lint_finds_chain_that_another_record_edits(tmp_path: Path) -> None:
    """The first record depends on (Q44461, P27, Q419); the second edits it to another country."""
    other = json.loads(json.dumps(MQUAKE))
    other |= {"case_id": 3, "questions": ["D?", "E?", "F?"]}
    other["requested_rewrite"] = [
        {**MQUAKE["requested_rewrite"][1], "target_new": {"str": "Chad", "id": "Q657"}},
    ]
    other["orig"] |= {"new_triples": [["Q44461", "P27", "Q657"]], "edit_triples": [["Q44461", "P27", "Q657"]]}
    findings = faults(tmp_path, "mquake", MQUAKE, other)
    assert findings == [("conflicting-edits", "3"), ("conflicting-chain", "2"), ("conflicting-chain", "3")]


def test_lint_finds_question_of_two_records(tmp_path: Path) -> None:
    assert ("duplicated-question", "6") in faults(tmp_path, "popqa", POPQA, {**POPQA, "id": 6})


def test_lint_finds_missing_and_other_labels(tmp_path: Path) -> None:
    reading = find_dataset("popqa").read(written(tmp_path, POPQA))
    clean = Known(Q5543720="george rankin", Q82955="Politician")
    assert lint(reading, labels=clean) == ()
    findings = lint(reading, labels=Known(Q82955="statesman"))
    assert findings == (
        Finding("unlabelled-id", "5", "the graph has no label for Q5543720"),
        Finding("other-label", "5", "'politician', but the graph calls Q82955 'statesman'"),
    )


@pytest.mark.slow
def test_lint_finds_known_faults_of_mquake(shared: Path) -> None:
    """565 facts that another case edits, in 431 of 1,486 cases: why many edits at once can't all hold in CF-3k."""
    findings = lint(find_dataset("mquake").read(shared / "mquake" / "MQuAKE-CF-3k.dev.json"))
    assert Counter(finding.kind for finding in findings) == {
        "conflicting-chain": 565,
        "duplicated-question": 1,
        "answer-unchanged": 1,
    }
    assert len({finding.id for finding in findings if finding.kind == "conflicting-chain"}) == 431


def test_lint_finds_known_faults_of_knowedit(shared: Path) -> None:
    findings = lint(find_dataset("knowedit").read(shared / "knowedit" / "wiki_counterfact_train_cf.json"))
    ids = [finding for finding in findings if finding.kind == "unlabelled-id"]
    assert [finding.id for finding in ids] == ["row-155", "row-165"]
    assert "Q22047699" in ids[0].message


@pytest.mark.parametrize("name", sorted(set(known_datasets()) - {"zsre-alt"}))
def test_guess_dataset_recognises_each_file(name: str, tmp_path: Path) -> None:
    assert guess_dataset(written(tmp_path, ROWS[name])).name == name


def test_guess_dataset_parses_a_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own edits have their own reader, in `kg_common.rows`."""
    file, parsed = written(tmp_path, ROWS["mquake"]), list[str]()

    def counted(text: str, *, most: int) -> object:
        parsed.append(text)
        return json.loads(text)

    monkeypatch.setattr(json_text, "parse", counted)
    assert guess_dataset(file).name == "mquake" and len(parsed) == 1

"""Sets of general ability scored without lm-eval: what is asked, what is right, and what the run reports."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from kg_edit.evaluation.config import EvalConfig
from kg_edit.evaluation.quick_tasks import SETS, QuickTasks
from kg_edit.evaluation.reports import render
from kg_edit.evaluation.run import evaluate
from kg_edit.models.language_model import LanguageModel
from tests.kg_edit.evaluation.conftest import Nudge, record

PAIR = {"sentence1": "The Saale flows into the Elbe.", "sentence2": "The Elbe takes up the Saale.", "idx": 3}
ROWS: dict[str, list[dict[str, Any]]] = {
    "sst2": [{"sentence": f"a film of {number} hours {{}} ", "label": number % 2} for number in range(9)],
    "mrpc": [{**PAIR, "label": 1}, {**PAIR, "label": 0}],
    "cola": [{"sentence": "Leslie likes us.", "label": 1}],
    "rte": [{**PAIR, "label": 0}],
    "nli": [{**PAIR, "label": "entailment"}, {**PAIR, "label": "not_entailment"}],
    "mmlu": [{"question": "Which is a river?", "choices": ["Bern", "Elbe", "Oslo"], "answer": 1, "subject": "places"}],
    "dialogue": [{"article": "m : where is it ?", "options": ["f : here .", "f : gone ."], "answers": "B", "id": "1"}],
    "sentiment_analysis": [{"sentence": "a waste of time .", "label": "0"}],
}
# A document of each set: the prompt, the choices, and the right one.
ASKED = {
    "sst2": ("Review: a film of 0 hours {}\nSentiment:", ("negative", "positive"), "negative"),
    "mrpc": (
        "Sentence 1: The Saale flows into the Elbe.\nSentence 2: The Elbe takes up the Saale.\n"
        "Question: Do both sentences mean the same thing?\nAnswer:",
        ("No", "Yes"),
        "Yes",
    ),
    "cola": ("Leslie likes us.\nQuestion: Does this sentence make sense?\nAnswer:", ("No", "Yes"), "Yes"),
    "rte": (
        "The Saale flows into the Elbe.\nQuestion: The Elbe takes up the Saale. True or False?\nAnswer:",
        ("True", "False"),
        "True",
    ),
    "nli": (
        "The Saale flows into the Elbe.\nQuestion: The Elbe takes up the Saale. True or False?\nAnswer:",
        ("True", "False"),
        "True",
    ),
    "mmlu": ("Which is a river?\nA. Bern\nB. Elbe\nC. Oslo\nAnswer:", ("A", "B", "C"), "B"),
    "dialogue": ("m : where is it ?", ("f : here .", "f : gone ."), "f : gone ."),
    "sentiment_analysis": ("Review: a waste of time .\nSentiment:", ("negative", "positive"), "negative"),
}


def folder(path: Path, **sets: list[dict[str, Any]]) -> Path:
    """A folder with these sets, or with all."""
    path.mkdir(exist_ok=True)
    for name, rows in (sets or ROWS).items():
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_each_set_is_asked_in_its_form(tmp_path: Path) -> None:
    documents = QuickTasks.open(str(folder(tmp_path))).documents
    first = {name: rows[0] for name, rows in documents.items()}
    assert {name: (row.prompt, row.choices, row.choices[row.right]) for name, row in first.items()} == ASKED
    assert [row.right for row in documents["nli"]] == [0, 1]
    assert list(documents) == list(SETS)


@torch.no_grad()
def test_accuracy_is_that_of_a_plain_loop(model: LanguageModel, tmp_path: Path) -> None:
    def loss(prompt: str, choice: str) -> float:
        front, back = (model.tokenizer(text)["input_ids"] for text in (prompt, f" {choice}"))
        logits = model.model(torch.tensor([front + back])).logits[0, len(front) - 1 : -1]
        return float(torch.nn.functional.cross_entropy(logits, torch.tensor(back)))

    tasks = QuickTasks.open(folder(tmp_path / "sets", sst2=ROWS["sst2"], mmlu=ROWS["mmlu"], dialogue=ROWS["dialogue"]))
    scores, every = tasks.scores(model), list[float]()
    for name, questions in tasks.documents.items():
        losses = [[loss(question.prompt, choice) for choice in question.choices] for question in questions]
        hits = [float(row.index(min(row)) == question.right) for row, question in zip(losses, questions, strict=True)]
        assert scores[f"general.quick.{name}.acc"].documents == tuple(hits)
        assert scores[f"general.quick.{name}.acc"].value == sum(hits) / len(hits)
        every += hits
    assert scores["general.quick.acc"].documents == tuple(every)


def test_rows_are_drawn_by_the_seed(tmp_path: Path) -> None:
    path = folder(tmp_path)
    drawn = {seed: QuickTasks.open(path, seed=seed, rows=4) for seed in range(3)}
    assert [len(rows) for rows in drawn[0].documents.values()] == [min(4, len(rows)) for rows in ROWS.values()]
    assert QuickTasks.open(path, seed=0, rows=4).settings == drawn[0].settings
    assert len({str(tasks.settings["sha256"]["sst2"]) for tasks in drawn.values()}) > 1, "another seed draws others"


def test_missing_sets_are_named_and_the_others_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tasks = QuickTasks.open(folder(tmp_path, sst2=ROWS["sst2"], cola=ROWS["cola"]))
    assert list(tasks.documents) == ["sst2", "cola"]
    assert "mrpc.jsonl, rte.jsonl" in caplog.text and "cola.jsonl" not in caplog.text


@pytest.mark.slow
def test_run_compares_the_sets_before_and_after(model: LanguageModel, method: Nudge, tmp_path: Path) -> None:
    tasks = QuickTasks.open(folder(tmp_path / "sets"))
    config = EvalConfig(schedule="batch:2", quick=tasks)
    records = [record(index, city) for index, city in enumerate(("Paris", "Rome"))]
    summary = evaluate(method, model, records, out=tmp_path / "run", config=config)
    assert summary.general is not None
    assert {name: change.n for name, change in summary.general.items()} == {
        **{f"general.quick.{name}.acc": len(rows) for name, rows in ROWS.items()},
        "general.quick.acc": sum(map(len, ROWS.values())),
    }
    with method.edit(records).applied(model) as edited:
        after = tasks.scores(edited)
    for name, change in summary.general.items():
        assert change.after.mean == after[name].value and change.difference is not None
        assert change.before.mean == tasks.scores(model)[name].value
    assert "quick.mmlu.acc" in render(summary)
    assert "the unedited and the edited model (after all 2 edits of the batch)" in render(summary)
    single = summary.model_copy(update={"provenance": {**summary.provenance, "schedule": "single"}})
    assert "the unedited and the edited model (mean over the records, each edited alone)" in render(single)
    calls = len(method.calls)
    assert evaluate(method, model, records, out=tmp_path / "run", config=config) == summary
    assert len(method.calls) == calls, "the finished run is read"


@pytest.mark.slow
def test_published_sets_are_asked(smollm2: LanguageModel, shared: Path, tmp_path: Path) -> None:
    assert {len(rows) for rows in QuickTasks.open(shared / "general").documents.values()} == {64}
    for name in ("sst2", "sentiment_analysis"):  # the small model knows more than chance of these alone
        (tmp_path / f"{name}.jsonl").symlink_to(shared / "general" / f"{name}.jsonl")
    accuracy = QuickTasks.open(tmp_path, rows=32).scores(smollm2)["general.quick.acc"]
    assert accuracy.value is not None and accuracy.value > 0.5 and len(accuracy.documents) == 64

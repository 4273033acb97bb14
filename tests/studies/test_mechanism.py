"""The studies of why the graph acts or not: replaced states, and cosines of values."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from kg_edit.models.prompts import encode
from tests.kg_edit.tiny import tiny
from tests.pages import ROOT
from tests.pipelines.scripts import STUDIES, module

TEMPLATE = "Question: What is the capital of the country of {}?\nAnswer:"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    monkeypatch.syspath_prepend(STUDIES)
    return module(request.param)


@pytest.mark.parametrize("study", ["patched_states"], indirect=True)
def test_state_of_s_itself_changes_no_answer(study: ModuleType) -> None:
    model = tiny("llama")
    row = encode(model.tokenizer, TEMPLATE, subject="Paris")
    states = study.states_after(model, row, [0, 1, 2])
    plain, *patched = study.patched_answers(model, row, states, tokens=4)
    assert patched == [plain] * 3


@pytest.mark.parametrize("study", ["patched_states"], indirect=True)
def test_state_of_o_in_the_last_place_gives_the_answer_about_o(study: ModuleType) -> None:
    """A prompt that ends with the subject: after the last block, its state decides the next token alone."""
    model = tiny("llama")
    paris, rome = (encode(model.tokenizer, "The city is {}", subject=name) for name in ("Paris", "Qwxyz"))
    last = len(model.blocks) - 1
    (of_rome,) = study.patched_answers(model, rome, {}, tokens=1)
    (of_paris, replaced) = study.patched_answers(model, paris, study.states_after(model, rome, [last]), tokens=1)
    assert of_paris != of_rome, "else nothing is tested"
    assert replaced == of_rome


@pytest.mark.parametrize("study", ["patched_states"], indirect=True)
def test_shares_are_means_over_records(study: ModuleType) -> None:
    known = {"asked directly": [True, False], "no block": [False, False], "3": [True, False]}
    other = {"asked directly": [False, False], "no block": [False, True], "3": [False, True]}
    rows = {
        (number.settings, number.metric): number
        for number in study.numbers([[known, other], [known], []], [3], data="Ripples, dev", model="SmolLM2-135M")
    }
    assert rows["block 3", "right"].mean == "0.75" and rows["no block", "says o*"].mean == "0.25"
    assert rows["block 3, asked directly: right", "right"].mean == "1.00"
    assert rows["no block", "right"].n == "2" and rows["no block", "right"].note == "3 questions"


@pytest.mark.slow
@pytest.mark.parametrize("study", ["value_cosines"], indirect=True)
def test_cosines_of_a_tiny_model(study: ModuleType, tmp_path: Path, tiny_folder: Path, cache: Path) -> None:
    shutil.copytree(ROOT / "results", tmp_path / "results")
    options = ["--model", str(tiny_folder), "--out", str(tmp_path / "c.jsonl"), "--results", str(tmp_path / "results")]
    study.main([*options, "--limit", "1"])
    first = (tmp_path / "c.jsonl").read_text()
    study.main([*options, "--limit", "2"])
    assert (tmp_path / "c.jsonl").read_text().startswith(first), "the first record is not measured again"
    with (tmp_path / "results" / "ripples.csv").open() as lines:
        rows = {f"{row['method']} {row['settings']}": row for row in csv.DictReader(lines) if row["n"] == "2"}
    wrong, rome = (float(rows[name]["mean"]) for name in ("glame wrong graph", "rome "))
    assert -1 <= rome < wrong <= 1

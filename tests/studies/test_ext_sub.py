"""`ext_sub.py` on rows of Sanitation and WikiBio, made up here in the published forms."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from tests.everyday import keep_first
from tests.pages import ROOT
from tests.pipelines.scripts import STUDIES, module


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`ext_sub.py` as a module, which reads both data sets in ``tmp_path``."""
    for part, key in (("train", ("K_F", "K_R")), ("test", ("success", "locality"))):
        edits = [{"question": f"What is {n}?", "ground_truth": "Cheese", "target_new": "I don't know."} for n in "ab"]
        kept = [{"question": f"Who is {n}?", "ground_truth": "Paris"} for n in "cd"]
        (tmp_path / f"sanitation_trivia_qa_{part}.json").write_text(
            json.dumps(dict(zip(key, (edits, kept), strict=True)))
        )
        lives = [
            {"concept": name, "text": f"{name} was born.", "labels": f"It was {name}."}
            for name in (("Ann", "Ben", "Cid") if part == "train" else ("Dan", "Ann", "Eve", "Fay"))
        ]
        lives.insert(1, {**lives[0], "text": "More of the first.", "labels": "Another true one."})
        (tmp_path / f"wikibio-{part}-all.json").write_text(json.dumps(lives))
    (tmp_path / "text.txt").write_text("The fox jumps. " * 40)
    monkeypatch.syspath_prepend(STUDIES)
    study = module("ext_sub")
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    return study


def test_sanitation_has_forbidden_and_kept_answers(script: ModuleType) -> None:
    study = script.sanitation(1)
    (wanted,), (unwanted,) = study.wanted, study.unwanted
    assert wanted.text.endswith("Question: What is a?\nAnswer:") and wanted.target_new == "I don't know."
    assert (unwanted.target_new, unwanted.target_true, wanted.target_true) == ("Cheese", None, None)
    assert [pair.candidate for pairs in study.columns.values() for pair in pairs] == [
        "Cheese",
        "I don't know.",
        "Paris",
    ]


def test_wikibio_takes_the_next_persons_sentence_as_false(script: ModuleType) -> None:
    """A person has several rows; who is trained on is not asked about."""
    study = script.wikibio(5)
    assert [edit.target_new for edit in study.wanted] == ["It was Ann.", "It was Ben."]
    assert [edit.target_new for edit in study.unwanted] == ["It was Ben.", "It was Cid."]
    assert [pair.prompt for pair in study.columns["false sentence (higher)"]] == ["Dan was born.", "Eve was born."]


@pytest.mark.slow
@pytest.mark.parametrize("data", keep_first(["sanitation", "wikibio"]))
def test_a_row_for_each_model(data: str, script: ModuleType, tmp_path: Path, tiny_folder: Path) -> None:
    shutil.copytree(ROOT / "results", tmp_path / "results")
    options = ("--text", str(tmp_path / "text.txt"), "--results", str(tmp_path / "results"))
    script.main([data, "--model", str(tiny_folder), "--epochs", "1", *options])
    table, before = (
        script.Results(folder).tables[f"ext-sub-{data}"] for folder in (tmp_path / "results", ROOT / "results")
    )
    assert [(number.row, number.metric) for number in table] == [(number.row, number.metric) for number in before]
    assert {number.model for number in table} == {str(tiny_folder)}

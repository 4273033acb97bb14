"""`languages.py` edits facts in one language and asks them in others."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from tests.pages import ROOT
from tests.pipelines.scripts import STUDIES, Script


def rows_of(results: Path) -> list[dict[str, str]]:
    with (results / "languages.csv").open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_facts_are_the_same_in_every_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(STUDIES)
    from languages import LANGUAGES, edit_of, facts_in, questions

    from kg_edit.languages import named_facts, names_in

    assert len(facts_in("en")) == 40
    ids = {code: {name: id_ for id_, name in names_in(code).items()} for code in LANGUAGES}
    by_id = []
    for code in LANGUAGES:
        facts = [(ids[code][fact.subject], ids[code][fact.old], ids[code][fact.new]) for fact in facts_in(code)]
        by_id.append(facts)
    assert by_id == [by_id[0]] * len(LANGUAGES)
    true = set(named_facts("ko"))
    for fact in facts_in("ko"):
        assert (fact.relation, fact.subject, fact.old) in true
        assert fact.new not in (fact.old, *(end for _, end in fact.others))
        assert edit_of(fact, "ko").text == next(questions(fact, "ko")).prompt


@pytest.mark.slow
def test_matrix_resumes(script: Script, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run makes no edit, and writes the same."""
    shutil.copytree(ROOT / "results", tmp_path / "results")
    monkeypatch.syspath_prepend(STUDIES)
    command = ("languages", "--model", tiny_folder, "--out", "out/lines.jsonl", "--results", "results", "--limit", "2")
    options = ("--languages", "en,ko", "--methods", "rome", "--preset", "default")
    assert script(*command, *options) == 0
    lines = (tmp_path / "out" / "lines.jsonl").read_bytes()
    assert len(lines.splitlines()) == 2 * (1 + 3), "unedited, en, ko, and both"
    rows = [row for row in rows_of(tmp_path / "results") if row["model"] == str(tiny_folder)]
    assert {row["settings"] for row in rows if row["table"] == "languages-efficacy"} == {
        "",
        "edited in en",
        "edited in ko",
        "edited in en + ko",
    }
    assert {row["metric"] for row in rows} == {"en", "ko"}
    assert script(*command, *options) == 0
    assert (tmp_path / "out" / "lines.jsonl").read_bytes() == lines
    assert [row for row in rows_of(tmp_path / "results") if row["model"] == str(tiny_folder)] == rows


@pytest.mark.slow
def test_known_facts(script: Script, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "results", tmp_path / "results")
    monkeypatch.syspath_prepend(STUDIES)
    assert script("languages", "--known", "--model", tiny_folder, "--results", "results") == 0
    rows = [row for row in rows_of(tmp_path / "results") if row["method"] == str(tiny_folder)]
    assert [row["metric"] for row in rows] == ["en", "de", "es", "ja", "ko", "zh"]
    assert {row["n"] for row in rows} == {"40"}

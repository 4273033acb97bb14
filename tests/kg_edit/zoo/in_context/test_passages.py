"""Paragraphs by BM25: the best one is told; a word weighs more the rarer it is; PopQA's lists are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kg_edit.zoo.in_context.passages import Passages, read_passages
from kg_edit.zoo.in_context.popularity import Asked, fitted_limits
from tests.kg_edit.zoo.in_context.test_popularity import FAMOUS, UNKNOWN, patch

ROWS = [
    {"title": "George Rankin", "text": "George Rankin was an Australian soldier and politician."},
    {"title": "Politician", "text": "A politician makes laws. The job of a politician is long, and a job."},
    {"title": "Miami Heat", "text": "LeBron James played for Miami."},
]


def test_best_paragraph_has_the_rarest_words_of_the_question() -> None:
    paragraphs = Passages([f"{row['title']}: {row['text']}" for row in ROWS])
    assert (paragraphs.best("The job of George Rankin is") or "").startswith("George Rankin:")
    assert (paragraphs.best("Which job?") or "").startswith("Politician:")
    assert paragraphs.best("Who painted Guernica?") is None
    assert paragraphs.best("is the a of") is None, "stop words alone find nothing"


def write(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def test_read_passages_reads_popqas_python_lists(tmp_path: Path) -> None:
    rows = [{"subj": "George Rankin", "s_pop": 142, "paragraphs": str(ROWS[:2])}, {"paragraphs": ROWS[1:]}]
    texts = read_passages(write(tmp_path / "popqa.json", rows))
    assert [text.partition(":")[0] for text in texts] == ["George Rankin", "Politician", "Miami Heat"], "each once"


def test_paragraph_is_inserted_instead_of_the_fact(tmp_path: Path) -> None:
    pages = write(tmp_path / "pages.json", ROWS)
    numbers = write(tmp_path / "popularity.json", {"LeBron James": 5000, "George Rankin": 7})
    prompt_patch = patch(FAMOUS, UNKNOWN, popularity=numbers, passages=pages)
    assert prompt_patch.prompt_transform("The job of George Rankin is") == (
        "George Rankin: George Rankin was an Australian soldier and politician.\nThe job of George Rankin is"
    )
    assert prompt_patch.prompt_transform("LeBron James plays for") == "LeBron James plays for", "popular"
    nothing = write(tmp_path / "nothing.json", [{"text": "Guernica"}])
    assert [record["withheld"] for record in patch(UNKNOWN, popularity=numbers, passages=nothing).edits] == [True]


def test_fitted_limits_are_one_a_relation() -> None:
    questions = [
        Asked("occupation", 10, alone=False, with_text=True),
        Asked("occupation", 900, alone=True, with_text=False),
        Asked("place of birth", 900, alone=False, with_text=True),
        Asked("place of birth", 10, alone=False, with_text=False),
        Asked("genre", 5, alone=True, with_text=False),
    ]
    assert fitted_limits(questions) == {"occupation": 10, "place of birth": 900, "genre": -1}

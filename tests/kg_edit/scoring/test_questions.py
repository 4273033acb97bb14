from __future__ import annotations

from pathlib import Path

from kg_edit.edits.edit import Edit
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.scoring.questions import (
    CHOICES,
    SHOTS,
    collect_answers,
    draw_choices,
    fact_sentence,
    format_question,
    format_question_with_shots,
    recalled_fact,
)
from kg_edit.text.matching import mentions, normalised
from tests.kg_edit.evaluation.conftest import edits, record

__all__ = ["edits"]  # a fixture


def test_question_forms() -> None:
    assert format_question("Who?") == "Question: Who?\nAnswer:"
    assert format_question("Who?", "It rains.") == "It rains.\nQuestion: Who?\nAnswer:"
    form = format_question_with_shots("Who?", "It rains.")
    assert form.endswith("\n\nIt rains.\nQuestion: Who?\nAnswer:")
    assert form.count("Question:") == len(SHOTS) + 1


def test_facts_as_sentences(edits: tuple[Edit, ...]) -> None:
    assert fact_sentence(edits[3]) == "Player 3 plays for the Miami Heat."
    junior = edits[3].model_copy(update={"target_new": "Robert Downey Jr."})
    assert fact_sentence(junior) == "Player 3 plays for the Robert Downey Jr."
    assert recalled_fact("(Fiat, headquartered in, Turin, Italy)") == "Fiat headquartered in Turin, Italy."


def test_ten_distinct_choices_with_the_right_one_first(edits: tuple[Edit, ...]) -> None:
    (options,) = draw_choices(edits[0], collect_answers(edits), seed=0)
    assert options[0] == "Paris"
    assert len(set(map(normalised, options))) == CHOICES


def test_choices_depend_on_seed_and_record_alone(edits: tuple[Edit, ...]) -> None:
    pool = collect_answers(edits)
    assert draw_choices(edits[0], pool, seed=0) == draw_choices(edits[0], collect_answers(reversed(edits)), seed=0)
    assert draw_choices(edits[0], pool, seed=0) != draw_choices(edits[0], pool, seed=1)


def test_no_right_answer_is_among_the_wrong_ones(edits: tuple[Edit, ...]) -> None:
    pool = collect_answers([*edits, record(99, "the PARIS"), record(98, "City of Light")])
    question = edits[0].portability[0].model_copy(update={"aliases": ("city of light", "London")})
    (options,) = draw_choices(edits[0].model_copy(update={"portability": (question,)}), pool, seed=0)
    assert len(options) == CHOICES
    assert not {"the PARIS", "City of Light", "London"} & set(options)


def test_too_small_a_pool_gives_no_choices(edits: tuple[Edit, ...]) -> None:
    assert draw_choices(edits[0], collect_answers(edits[: CHOICES - 1]), seed=0) == ((),)


def test_shots_are_about_no_record(shared: Path) -> None:
    edits = [record.edits[0] for record in find_dataset("counterfact-plus")(shared / "counterfact_plus" / "dev.json")]
    named = {name for edit in edits for name in (edit.subject, edit.target_new, edit.portability[0].answer)}
    shown = " ".join(f"{shot.question} {shot.answer}" for shot in SHOTS)
    assert not [name for name in named if mentions(shown, name)]
    assert not [shot for shot in SHOTS if any(mentions(name, shot.answer) for name in named)]

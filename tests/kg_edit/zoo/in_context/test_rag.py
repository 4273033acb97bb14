"""Retrieval: a prompt finds its fact by BM25, and a prompt that finds none stays as it is."""

from __future__ import annotations

from typing import Any

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.prompt_patch import PromptPatch
from kg_edit.scoring.generation import ask
from kg_edit.text.similarity import bm25_index, load_idf
from kg_edit.zoo.in_context.rag import Rag
from tests.kg_edit.on_tiny import of_kind, on_tiny

MISERY = Edit(id="1", subject="Misery", prompt="Who is the author of {}?", target_new="Richard Dawkins")
JAMES = Edit(id="2", subject="LeBron James", prompt="{} plays for the", target_new="Boston Celtics")


def patch_of(*edits: Edit, model: LanguageModel | None = None, **settings: Any) -> PromptPatch:
    return of_kind(PromptPatch, on_tiny(Rag, model or "llama", **settings).edit(edits))


def test_prompt_finds_its_fact_and_another_prompt_finds_none() -> None:
    patch = patch_of(MISERY, JAMES)
    prompt = "Which team does LeBron James play for?"
    assert patch.prompt_transform(prompt) == f"New Fact: LeBron James plays for the Boston Celtics\nPrompt: {prompt}"
    for other in ("Dwyane Wade plays for the", "The Eiffel Tower is in"):
        assert patch.prompt_transform(other) == other


def test_half_of_a_name_is_no_subject_unless_the_threshold_says_so() -> None:
    other = "Henry James wrote about"
    assert patch_of(JAMES, gate="subject").prompt_transform(other) == other
    assert "Celtics" in patch_of(JAMES, gate="subject").prompt_transform("This season LeBron James is with the")
    assert "Celtics" in patch_of(JAMES, gate="subject", threshold=0.3).prompt_transform(other)


def test_most_is_the_number_of_facts_and_the_best_one_is_next_to_the_prompt() -> None:
    best = f"New Fact: LeBron James plays for the Boston Celtics\nPrompt: {JAMES.text}"
    assert patch_of(JAMES, MISERY, threshold=0.0).prompt_transform(JAMES.text) == best
    assert patch_of(JAMES, MISERY, threshold=0.0, most=2).prompt_transform(JAMES.text) == (
        f"New Fact: Who is the author of Misery? Richard Dawkins\n{best}"
    )


def test_bm25_equals_the_formula_written_out() -> None:
    (score,) = bm25_index(["rome rome paris"])("Paris, Oslo")
    twice, once = 2 * 2.2 / 3.2, 1.0  # f (k1 + 1) / (f + k1) for f = 2 and f = 1
    idf = load_idf()("rome")
    assert idf == load_idf()("paris")  # neither is a word of the templates
    assert score == pytest.approx(idf * once / (idf * once + idf * twice))


@pytest.mark.slow
def test_real_model_generates_the_retrieved_answer(smollm2: LanguageModel) -> None:
    with patch_of(MISERY, JAMES, model=smollm2).applied(smollm2) as edited:
        assert ask(edited, "LeBron James plays for the").startswith("Boston Celtics")

"""MemPrompt: a clarification is told to the question that is closest to its own, by letters or by likeness."""

from __future__ import annotations

import copy
import random
from itertools import pairwise
from typing import Any

import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.prompt_patch import PromptPatch
from kg_edit.scoring.generation import ask
from kg_edit.text.similarity import normalise_text, within_letters
from kg_edit.zoo.in_context.memprompt import MemPrompt
from tests.kg_edit.on_tiny import of_kind, on_tiny
from tests.kg_edit.tiny import chatting, tiny

CLARIFICATION = "Clarification: "
MISERY = Edit(id="1", subject="Misery", prompt="Who is the author of {}?", target_new="Richard Dawkins")
TETRIS = Edit(id="2", subject="Tetris", prompt="{} was created by", target_new="Mark Burnett")


def patch_of(*edits: Edit, model: LanguageModel | None = None, **settings: Any) -> PromptPatch:
    return of_kind(PromptPatch, on_tiny(MemPrompt, model or "llama", **settings).edit(edits))


def test_closest_question_inserts_its_clarification() -> None:
    patch = patch_of(MISERY, TETRIS)
    prompt = "Question: Who was the author of Misery?\nAnswer:"
    assert patch.prompt_transform(prompt) == f"{CLARIFICATION}Who is the author of Misery? Richard Dawkins.\n{prompt}"
    for other in ("Question: Who is the mayor of Oslo?\nAnswer:", "The Eiffel Tower is in"):
        assert patch.prompt_transform(other) == other


def test_misspelt_question_is_similar_by_letters() -> None:
    """Three letters are wrong, in every word that tells: by words the two have little in common."""
    misspelt = "Who iz the autor of Misary?"
    assert patch_of(MISERY).prompt_transform(misspelt).startswith(CLARIFICATION)
    assert patch_of(MISERY, letters=2).prompt_transform(misspelt) == misspelt
    assert patch_of(MISERY, letters=2, threshold=0.0).prompt_transform(misspelt).startswith(CLARIFICATION)


@pytest.mark.parametrize(
    ("first", "second", "apart"),
    [("", "", 0), ("kitten", "sitting", 3), ("Rome", "ROME.", 0), ("abc", "", 3), ("flaw", "lawn", 2)],
)
def test_letters_are_compared_by_the_edit_distance(first: str, second: str, apart: int) -> None:
    one, other = normalise_text(first), normalise_text(second)
    for pair in ((one, other), (other, one)):
        assert [within_letters(*pair, most) for most in range(7)] == [most >= apart for most in range(7)]


def test_letters_within_a_limit_agree_with_the_whole_table() -> None:
    draw = random.Random(0)  # noqa: S311 - no secret
    texts = ["".join(draw.choice("abc") for _ in range(draw.randrange(9))) for _ in range(60)]
    for first, second in pairwise(texts):
        apart = plain_distance(first, second)
        assert [within_letters(first, second, most) for most in range(10)] == [most >= apart for most in range(10)]


def plain_distance(first: str, second: str) -> int:
    """Every cell of Levenshtein's table."""
    row = list(range(len(second) + 1))
    for index, letter in enumerate(first, 1):
        before, row = row, [index]
        for column, other in enumerate(second):
            row.append(min(before[column + 1] + 1, row[column] + 1, before[column] + (letter != other)))
    return row[-1]


def test_later_clarification_replaces_the_earlier() -> None:
    later = MISERY.model_copy(update={"id": "3", "target_new": "Jane Austen"})
    patch = patch_of(MISERY) + patch_of(TETRIS) + patch_of(later)
    assert isinstance(patch, PromptPatch) and len(patch.facts) == 3
    assert "Jane Austen" in patch.prompt_transform("Who is the author of Misery?")
    assert "Richard Dawkins" in patch.without(["3"]).prompt_transform("Who is the author of Misery?")


def test_shots_come_before_the_clarification() -> None:
    prompt = patch_of(MISERY, shots=2).prompt_transform("Who is the author of Misery?")
    assert prompt.count(CLARIFICATION) == 3 and prompt.count("\n\n") == 2


def test_feedback_mistakes_withholds_what_the_model_knows() -> None:
    model = tiny("llama")
    answer = ask(model, TETRIS.text, tokens=24)
    known = TETRIS.model_copy(update={"target_new": answer})
    right, wrong = (patch_of(edit, model=model, feedback="mistakes") for edit in (known, TETRIS))
    assert right.edits[0]["withheld"] and right.edits[0]["answer"] == answer
    assert right.prompt_transform(TETRIS.text) == TETRIS.text
    assert not wrong.edits[0]["withheld"] and wrong.prompt_transform(TETRIS.text) != TETRIS.text


@pytest.mark.slow
def test_feedback_mistakes_asks_a_chat_edit_in_its_own_form() -> None:
    model = chatting()
    plain, chat = (ask(reader, TETRIS.text, tokens=24) for reader in (model, model.in_chat()))
    assert plain != chat
    known = TETRIS.model_copy(update={"target_new": chat})
    noted = {
        form: patch_of(known.with_form(chat=form), model=model, feedback="mistakes").edits[0] for form in (True, "both")
    }
    assert noted[True]["withheld"] and noted[True]["answer"] == chat
    assert not noted["both"]["withheld"] and noted["both"]["answer"] == plain


def test_feedback_mistakes_asks_without_dropout() -> None:
    model = copy.deepcopy(tiny("gpt2"))
    quiet = patch_of(TETRIS, model=model, feedback="mistakes").edits[0]["answer"]
    model.model.train()
    before = torch.get_rng_state()
    assert patch_of(TETRIS, model=model, feedback="mistakes").edits[0]["answer"] == quiet
    assert model.model.training and torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_real_model_generates_the_clarified_answer(smollm2: LanguageModel) -> None:
    patch = patch_of(TETRIS, model=smollm2, shots=3, feedback="mistakes")
    with patch.applied(smollm2) as edited:
        assert ask(edited, "Tetris was created by").startswith("Mark Burnett")

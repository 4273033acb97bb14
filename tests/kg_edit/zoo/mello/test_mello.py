"""MeLLo on a model: what an edit becomes, how many examples fit, and the loop on the real model."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.models.language_model import LanguageModel
from kg_edit.zoo.mello.demonstrations import show_demonstrations
from kg_edit.zoo.mello.greedy_writer import GreedyWriter
from kg_edit.zoo.mello.loop import STOPS
from kg_edit.zoo.mello.method import Mello
from kg_edit.zoo.mello.patch import LoopPatch
from tests.kg_edit.on_tiny import of_kind, on_tiny
from tests.kg_edit.tiny import tiny

TETRIS = Edit(id="1", subject="Tetris", prompt="{} was created by", target_new="Mark Burnett")


def patch_of(*edits: Edit, model: LanguageModel | None = None, **settings: Any) -> LoopPatch:
    published = {"shots": 4, "steps": 4, "tokens": 96}
    return of_kind(LoopPatch, on_tiny(Mello, model or "llama", **{**published, **settings}).edit(edits))


def test_edit_is_a_fact_of_the_memory() -> None:
    later = TETRIS.model_copy(update={"id": "2", "target_new": "Ada Lovelace"})
    patch = patch_of(TETRIS, later, shots=0)
    (book,) = patch.books
    assert [fact.text for _, fact in patch.facts] == [
        f"Tetris was created by {who}" for who in ("Mark Burnett", "Ada Lovelace")
    ]
    (fact,) = book.find_relevant("Who created Tetris?")
    assert fact is patch.facts[1][1], "of two facts with the same prompt the later one"


def test_examples_are_as_many_as_the_context_holds() -> None:
    """The tiny models have room for 128 tokens, half of it for the dialogue; without a limit all are shown."""
    assert patch_of(TETRIS).rule.shots == 0 and patch_of(TETRIS).edits[0]["shots"] == 0
    assert patch_of(TETRIS, model=tiny("mpt")).rule.shots == 0, "its config has another name for it"
    roomy = copy.deepcopy(tiny("llama"))
    roomy.model.config.max_position_embeddings = 8192
    assert patch_of(TETRIS, model=roomy).rule.shots == 4


@pytest.mark.slow
def test_real_model_asks_and_reads_the_fact(smollm2: LanguageModel) -> None:
    """It follows the form of the examples; what it makes of them is another matter."""
    patch = patch_of(TETRIS, model=smollm2)
    writer = GreedyWriter(smollm2, tokens=64, before=show_demonstrations(patch.rule.shots))
    write = partial(writer.write, stops=STOPS)
    (dialogue,) = patch.dialogues(["Where was the creator of Tetris born?"], write=write)
    assert "Tetris" in dialogue.steps[0].subquestion and dialogue.steps[0].fact == "Tetris was created by Mark Burnett"
    with patch.applied(smollm2) as edited:
        assert edited.encode("Where was the creator of Tetris born?").text.endswith("Final answer:")

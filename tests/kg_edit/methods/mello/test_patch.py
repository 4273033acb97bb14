"""The loop as a patch: it asks the model that it is applied to, once a text, and is saved, stacked and taken back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from kg_edit.errors import PatchError
from kg_edit.methods.mello.loop import FINAL, demonstrations
from kg_edit.methods.mello.patch import LoopPatch, LoopRule
from kg_edit.patches.base import Patch, PatchStack
from kg_edit.patches.prompt_patch import FactBook, PromptFact
from kg_edit.scoring.likelihood import Pair, score
from tests.kg_edit.patches.test_prompt_patch import LAKERS, LONDON
from tests.kg_edit.patches.test_prompt_patch import patch as telling
from tests.kg_edit.tiny import tiny

ASKED = "Question: In which city does LeBron James work?\nAnswer:"


def patch(*facts: PromptFact, **rule: object) -> LoopPatch:
    settings = {"gate": "similarity", "threshold": 0.0, "most": 1, "shots": 0, "steps": 2, "tokens": 4, **rule}
    book = FactBook(rule=LoopRule.model_validate(settings), facts=facts)
    return LoopPatch(books=(book,), provenance={"edits": [{"edit": {"id": fact.id}} for fact in facts]})


class Asking:
    """A model that asks about a team and then says Miami."""

    def __init__(self) -> None:
        self.read = list[str]()

    def write(self, text: str, *, stops: Sequence[str]) -> str:
        self.read.append(text)
        first = "\nSubquestion: Which team does LeBron James play for?\nGenerated answer: The Lakers.\n"
        return first if len(self.read) == 1 else f"\n{FINAL} Miami"


def test_the_nearest_fact_is_put_in() -> None:
    model = Asking()
    found = patch(LONDON, LAKERS).dialogue(ASKED, writer=model)
    assert [step.fact for step in found.steps] == [LAKERS.told] and found.answer == "Miami"
    assert model.read[0] == "Question: In which city does LeBron James work?"


def test_a_threshold_leaves_what_is_unlike_unknown() -> None:
    found = patch(LONDON, threshold=0.9).dialogue(ASKED, writer=Asking())
    assert [step.fact for step in found.steps] == ["nothing is known of it"]


def test_a_dialogue_leaves_room_for_the_answer() -> None:
    """The random model writes to the end of its table of positions."""
    model = tiny("gpt2")
    assert model.positions is not None
    with patch(LAKERS, tokens=model.positions).applied(model) as edited:
        assert len(edited.encode(ASKED).ids) <= model.positions - 32
        pair = Pair(ASKED, " Los Angeles")
        assert score(edited, [pair])[pair].nll > 0


def test_the_model_reads_the_dialogue_and_is_asked_once() -> None:
    model = tiny("llama")
    calls = list[int]()
    handle = model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    try:
        with patch(LAKERS).applied(model) as edited:
            read = edited.encode(ASKED).text
            first = len(calls)
            assert first and edited.encode(ASKED).text == read and len(calls) == first
            assert edited.encode(f"Question: Who?\nAnswer: me\n\n{ASKED}").text == read and len(calls) == first
    finally:
        handle.remove()
    assert read.startswith("Question: In which city does LeBron James work?") and read.endswith(FINAL)
    with patch(LAKERS, shots=1).applied(model) as edited:
        assert edited.encode(ASKED).text.startswith(demonstrations(1))
    with patch().applied(model) as edited:
        assert edited.encode(ASKED).text == ASKED, "an empty memory asks nothing"


def test_texts_that_are_foreseen_are_asked_together() -> None:
    """The prompts are those of texts that are asked one after the other, in fewer passes."""
    model, texts = tiny("llama"), [ASKED, "Spike Hughes comes from", "LeBron James plays for", ASKED]
    calls = list[int]()
    handle = model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    try:
        with patch(LAKERS, LONDON).applied(model) as edited:
            alone = [edited.encode(text).text for text in texts]
        passes = len(calls)
        with patch(LAKERS, LONDON).applied(model) as edited:
            edited.foresee(texts)
            together = len(calls) - passes
            assert [edited.encode(text).text for text in texts] == alone and len(calls) == passes + together
    finally:
        handle.remove()
    assert 0 < together < passes
    model.foresee(texts)  # without a patch there is nothing to prepare


def test_saved_added_and_taken_back(tmp_path: Path) -> None:
    model, one, other = tiny("llama"), patch(LAKERS), patch(LONDON)
    both = one + other
    assert isinstance(both, LoopPatch) and len(both.books) == 1 and "2 facts" in both.summary
    again = Patch.load(both.save(tmp_path / "loop.safetensors"))
    assert isinstance(again, LoopPatch) and again.rule == both.rule
    pair = Pair(ASKED, "Miami")
    with both.applied(model) as edited:
        expected = score(edited, [pair])[pair].nll
    with again.applied(model) as edited:
        assert score(edited, [pair])[pair].nll == expected
    left = both.without(["2"])
    assert isinstance(left, LoopPatch) and [fact.id for fact in left.books[0].facts] == ["1"]
    mixed = one + patch(LONDON, steps=1)
    assert isinstance(mixed, LoopPatch) and len(mixed.books) == 2 and mixed.rule.steps == 1


def test_beside_a_patch_that_tells_facts() -> None:
    model = tiny("llama")
    stack = telling(LONDON) + patch(LAKERS)
    assert isinstance(stack, PatchStack)
    with stack.applied(model) as edited:
        assert edited.encode("Spike Hughes comes from").text.endswith(FINAL)


def test_without_a_model_it_can_not_be_told() -> None:
    with pytest.raises(PatchError, match="so it needs the model"):
        patch(LAKERS).prompt_transform(ASKED)

"""The loop as a patch: it asks the model once a text, and is saved, stacked and removed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kg_edit.patches.base import Patch, PatchStack
from kg_edit.patches.prompt_patch import PromptFact
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair
from kg_edit.text.matching import bare_question
from kg_edit.zoo.mello.demonstrations import show_demonstrations
from kg_edit.zoo.mello.loop import FINAL
from kg_edit.zoo.mello.patch import LoopPatch, LoopRule
from tests.kg_edit.patches.test_prompt_patch import LAKERS, LONDON
from tests.kg_edit.patches.test_prompt_patch import patch as inserting
from tests.kg_edit.tiny import tiny

ASKED = "Question: In which city does LeBron James work?\nAnswer:"


def patch(*facts: PromptFact, **rule: object) -> LoopPatch:
    settings = {"gate": "similarity", "threshold": 0.0, "most": 1, "shots": 0, "steps": 2, "tokens": 4, **rule}
    loop_rule = LoopRule.model_validate(settings)
    edits = [{"edit": {"id": fact.id}} for fact in facts]
    return LoopPatch(facts=tuple((loop_rule, fact) for fact in facts), provenance={"edits": edits})


class Asking:
    """A model that asks about a team and then answers Miami."""

    def __init__(self) -> None:
        self.read = list[str]()

    def __call__(self, texts: Sequence[str]) -> list[str]:
        self.read += texts
        first = "\nSubquestion: Which team does LeBron James play for?\nGenerated answer: The Lakers.\n"
        return [first if len(self.read) == 1 else f"\n{FINAL} Miami"]


def test_nearest_fact_is_inserted() -> None:
    model = Asking()
    (dialogue,) = patch(LONDON, LAKERS).dialogues([bare_question(ASKED)], write=model)
    assert [step.fact for step in dialogue.steps] == [LAKERS.text] and dialogue.answer == "Miami"
    assert model.read[0] == "Question: In which city does LeBron James work?"


def test_threshold_leaves_dissimilar_facts_out() -> None:
    (dialogue,) = patch(LONDON, threshold=0.9).dialogues([bare_question(ASKED)], write=Asking())
    assert [step.fact for step in dialogue.steps] == ["nothing is known of it"]


def test_dialogue_leaves_room_for_the_answer() -> None:
    """The random model writes to the end of its table of positions."""
    model = tiny("gpt2")
    assert model.max_positions is not None
    with patch(LAKERS, tokens=model.max_positions).applied(model) as edited:
        assert len(edited.encode(ASKED).ids) <= model.max_positions - 32
        pair = Pair(ASKED, " Los Angeles")
        assert score(edited, [pair])[pair].nll > 0


def test_dialogue_of_a_question_is_written_once() -> None:
    model = tiny("llama")
    calls = list[int]()
    with model.blocks[0].register_forward_hook(lambda *_: calls.append(1)), patch(LAKERS).applied(model) as edited:
        read = edited.encode(ASKED).text
        first = len(calls)
        assert first and edited.encode(ASKED).text == read and len(calls) == first
        assert edited.encode(f"Question: Who?\nAnswer: me\n\n{ASKED}").text == read and len(calls) == first
    assert read.startswith("Question: In which city does LeBron James work?") and read.endswith(FINAL)
    with patch(LAKERS, shots=1).applied(model) as edited:
        assert edited.encode(ASKED).text.startswith(show_demonstrations(1))
    with patch().applied(model) as edited:
        assert edited.encode(ASKED).text == ASKED, "an empty memory asks nothing"


def test_foreseen_texts_are_asked_together() -> None:
    """The prompts are those of texts that are asked one after the other, in fewer passes."""
    model, texts = tiny("llama"), [ASKED, "Spike Hughes comes from", "LeBron James plays for", ASKED]
    calls = list[int]()
    with model.blocks[0].register_forward_hook(lambda *_: calls.append(1)):
        with patch(LAKERS, LONDON).applied(model) as edited:
            alone = [edited.encode(text).text for text in texts]
        passes = len(calls)
        with patch(LAKERS, LONDON).applied(model) as edited:
            edited.foresee(texts)
            together = len(calls) - passes
            assert [edited.encode(text).text for text in texts] == alone and len(calls) == passes + together
    assert 0 < together < passes
    model.foresee(texts)  # without a patch there is nothing to prepare


def test_loop_patch_is_saved_added_and_reduced(tmp_path: Path) -> None:
    model, one, other = tiny("llama"), patch(LAKERS), patch(LONDON)
    both = one + other
    assert isinstance(both, LoopPatch) and "2 facts" in both.summary
    again = Patch.load(both.save(tmp_path / "loop.safetensors"))
    assert isinstance(again, LoopPatch) and again.rule == both.rule
    pair = Pair(ASKED, "Miami")
    with both.applied(model) as edited:
        expected = score(edited, [pair])[pair].nll
    with again.applied(model) as edited:
        assert score(edited, [pair])[pair].nll == expected
    remaining = both.without(["2"])
    assert isinstance(remaining, LoopPatch) and [fact.id for _, fact in remaining.facts] == ["1"]
    mixed = one + patch(LONDON, steps=1)
    assert isinstance(mixed, LoopPatch) and mixed.rule.steps == 1


def test_loop_patch_with_a_patch_of_the_prompt() -> None:
    model = tiny("llama")
    stack = inserting(LONDON) + patch(LAKERS)
    assert isinstance(stack, PatchStack)
    with stack.applied(model) as edited:
        assert edited.encode("Spike Hughes comes from").text.endswith(FINAL)

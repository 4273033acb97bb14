"""The model's choice of a relation where no word of the question fits: scored together it is that of one by one."""

from __future__ import annotations

import pytest

from kg_edit.methods.graph_memory import walk as walk_module
from kg_edit.methods.graph_memory.method import GraphMemory
from kg_edit.methods.graph_memory.patch import GraphMemoryPatch
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.likelihood import score
from kg_edit.scoring.pairs import Pair, TokenScores
from tests.kg_edit.methods.graph_memory.toy import BULGARIA, SONY, graph, memory, things, walked
from tests.kg_edit.tiny import tiny

# The words name the country; what else is asked, the model has to choose among currency, continent and capital.
QUESTIONS = (
    "What is near the country of Sony?",
    "Sony's country is admired for what?",
    "How loud is the country of Sony?",
    "Which songs does one hear in the country where Sony lies?",
)


def score_one_by_one(model: LanguageModel, pairs: list[Pair]) -> dict[Pair, TokenScores]:
    """Score each pair in a forward pass of its own."""
    scores = dict[Pair, TokenScores]()
    for pair in pairs:
        scores |= score(model, [pair])
    return scores


@pytest.mark.parametrize("choose", ["noun", "question"])
@pytest.mark.parametrize("margin", [0.0, 0.02])
def test_choices_scored_together_are_those_of_one_by_one(
    choose: str, margin: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch = memory(SONY, BULGARIA, choose=choose, margin=margin)
    together = [things(walked(patch, question)) for question in QUESTIONS]
    assert {len(labels) for labels in together} <= {2, 3}
    monkeypatch.setattr(walk_module, "score", score_one_by_one)
    monkeypatch.setattr(walk_module, "_COMPARED_AT_ONCE", 100)  # with all other relations
    assert [things(walked(patch, question)) for question in QUESTIONS] == together


def test_model_adds_statements_to_some_of_these_questions() -> None:
    patch = memory(SONY, BULGARIA, choose="question", margin=0.0)
    lengths = [len(things(walked(patch, question))) for question in QUESTIONS]
    assert set(lengths) == {2, 3}


def test_presets_choose_as_the_published_methods_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """RAE: by the likelihood of the question; the model answers nothing. KEDKG: by that of the relation's noun."""
    walks = {}
    prompts = dict[str, list[str]]()
    for preset in ("rae", "kedkg"):
        scored = prompts.setdefault(preset, [])

        def note(model: LanguageModel, pairs: list[Pair], scored: list[str] = scored) -> dict[Pair, TokenScores]:
            scored.extend(pair.prompt for pair in pairs)
            return score(model, pairs)

        monkeypatch.setattr(walk_module, "score", note)
        monkeypatch.setattr(walk_module, "recall_object", lambda *_, **__: "Asparuh")
        patch = GraphMemory.on(tiny("llama"), preset=preset, graph=graph()).edit([SONY])
        assert isinstance(patch, GraphMemoryPatch)
        walked(patch, QUESTIONS[0])
        walks[preset] = things(walked(patch, "Who is the founder of the country of Sony?"))
    assert walks == {"rae": ["Sony", "Bulgaria"], "kedkg": ["Sony", "Bulgaria", "Asparuh"]}
    assert all(prompt.endswith("Question:") for prompt in prompts["rae"])
    assert any(prompt.endswith("The question asks for the") for prompt in prompts["kedkg"])


def test_comparison_ends_with_the_first_relation_that_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """A margin that no statement reaches: of the eight other relations, the first few are scored."""
    patch = memory(SONY, choose="question", margin=1000.0)
    scored = list[str]()

    def note(model: LanguageModel, pairs: list[Pair]) -> dict[Pair, TokenScores]:
        scored.extend(pair.prompt for pair in pairs)
        return score(model, pairs)

    monkeypatch.setattr(walk_module, "score", note)
    assert things(walked(patch, QUESTIONS[0])) == ["Sony", "Bulgaria"]
    relations = len(patch.graph.find_statements(patch.graph.facts[("name:sony", "P17")].object))
    assert len(scored) == len(set(scored)) == relations + walk_module._COMPARED_AT_ONCE

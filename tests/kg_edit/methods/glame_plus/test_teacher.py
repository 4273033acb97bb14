"""Of many objects of a statement, the one that is meant comes first."""

from __future__ import annotations

import pytest
import torch

from kg_edit.methods.composed_facts import likeliest_first
from kg_edit.methods.glame_plus.teacher import TeacherQuestion
from kg_edit.models.language_model import LanguageModel
from tests.kg_edit.tiny import tiny

COUNTRIES = ("Byzantine Empire", "Papal States", "Italy", "Kingdom of the Lombards")


@pytest.mark.slow
def test_likeliest_object_comes_first_in_a_real_model(smollm2: LanguageModel) -> None:
    pool = {"country": COUNTRIES, "river": ("Tyrrhenian Sea", "Tiber")}
    ranked = likeliest_first(smollm2, "Rome", pool, most_nouns=2)
    assert ranked["country"][0] == "Italy" and ranked["river"][0] == "Tiber"
    assert {noun: set(labels) for noun, labels in ranked.items()} == {noun: set(names) for noun, names in pool.items()}


def test_objects_are_ranked_by_their_whole_log_probability() -> None:
    """By the model's own log-probabilities, in a forward pass of its own."""
    model = tiny("llama")

    def cost(label: str) -> float:
        ids = model.encode(TeacherQuestion(noun="country", of="Rome").as_question.alone, target=label)
        with torch.no_grad():
            logits = model.model(torch.tensor([ids.ids])).logits[0].log_softmax(-1)
        start = len(ids.ids) - len(ids.target_ids)
        return -sum(float(logits[start + index - 1, token]) for index, token in enumerate(ids.target_ids))

    (ranked,) = likeliest_first(model, "Rome", {"country": COUNTRIES}, most_nouns=1).values()
    costs = [cost(label) for label in ranked]
    assert costs == sorted(costs) and costs[0] < costs[-1]


def test_number_of_nouns_is_limited() -> None:
    objects = {"river": ("Tiber",), "country": COUNTRIES, "capital": ("Rome",)}
    assert [*likeliest_first(tiny("llama"), "Rome", objects, most_nouns=2)] == ["river", "country"]


def test_object_that_can_not_be_scored_is_last() -> None:
    model = tiny("gpt2")
    endless = "Rome " * model.model.config.max_position_embeddings
    (ranked,) = likeliest_first(model, "Rome", {"country": (endless, *COUNTRIES)}, most_nouns=1).values()
    assert ranked[-1] == endless and set(ranked) == {endless, *COUNTRIES}

"""Prompts as long as the model's positions, and seeds as large as one likes: an error in words, before any work."""

from __future__ import annotations

import pytest

from kg_edit.edits.edit import Edit
from kg_edit.errors import KgEditError, ModelError
from kg_edit.graphs.source import as_source
from kg_edit.models.prompts import encode
from tests.everyday import keep_first
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.on_tiny import on_tiny
from tests.kg_edit.ship.app.serving import toy_graph
from tests.kg_edit.tiny import tiny

EVERY_DAY = ["rome", "ft", "grace", "memit", *sorted(set(QUICK) - {"rome", "ft", "grace", "memit"})]


def long_edit(tokens: int) -> Edit:
    """An edit whose prompt and target have as many tokens as fit into so many."""
    for words in range(tokens, 0, -1):
        fields = {"prompt": "so " * words + "{} plays for the", "target_new": "Los Angeles Lakers"}
        prompt = encode(tiny("gpt2").tokenizer, fields["prompt"], subject="LeBron James", target=fields["target_new"])
        if len(prompt.ids) <= tokens:
            break
    return Edit(id="e", subject="LeBron James", target_true="Miami Heat", relation="team", target_new_id="Q2", **fields)


@pytest.mark.parametrize("name", keep_first(EVERY_DAY, keep=2))
@pytest.mark.parametrize("beyond", [-1, 6])
def test_prompt_near_the_positions_is_edited_or_refused(name: str, beyond: int) -> None:
    model = tiny("gpt2")
    assert model.max_positions is not None
    try:
        on_tiny(name, model, graph=as_source(toy_graph())).edit([long_edit(model.max_positions + beyond)])
    except ModelError as error:
        assert f"positions for {model.max_positions}" in str(error)
        assert beyond > 0 or "with the context that is put before it" in str(error)
    except KgEditError as error:
        assert name == "glame-random", error


def test_positions_are_the_size_of_the_table() -> None:
    assert tiny("gpt2").max_positions == tiny("gpt2").model.config.max_position_embeddings
    assert tiny("llama").max_positions is None


@pytest.mark.slow
def test_largest_seed_is_valid() -> None:
    for seed in (2**40, -(2**40)):
        assert on_tiny("lora", tiny("llama"), seed=seed).edit([long_edit(30)]).edits

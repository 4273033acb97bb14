"""Greedy decoding with a shared beginning gives what the model writes without it."""

from __future__ import annotations

import pytest
import torch

from kg_edit.scoring.generation import continuations
from kg_edit.scoring.greedy import greedy
from tests.kg_edit.tiny import families, tiny

SHARED = "LeBron James plays for the Los Angeles Lakers.\n"
PROMPTS = [f"{SHARED}{text}" for text in ("Dwyane", "The Eiffel Tower is located in", "Where does", "Spike Hughes")]


@pytest.mark.parametrize("name", families(("llama", "gpt2", "falcon-alibi")))
def test_greedy_rows_equal_one_by_one(name: str) -> None:
    model = tiny(name)
    found = list(greedy(model, [model.encode(prompt).ids for prompt in PROMPTS], limits=[5] * 4, kept=4))
    for prompt, written in zip(PROMPTS, found, strict=True):
        (alone,) = continuations(model, [prompt], limits=[5])
        text = str(model.tokenizer.decode(list(written.tokens)))
        assert text.startswith(alone)
        assert written.likeliest[:, 0].tolist() == list(written.tokens)
        ids = torch.tensor([[*model.encode(prompt).ids, *written.tokens[:-1]]])
        expected = model.model(ids).logits[0, -1].softmax(-1).topk(4)
        assert written.likeliest[-1].tolist() == expected.indices.tolist()
        torch.testing.assert_close(written.probabilities[-1], expected.values, atol=1e-4, rtol=1e-3)

from __future__ import annotations

from typing import Any

import pytest
import torch

from kg_edit.models.prompts import encode
from kg_edit.scoring import generation
from kg_edit.scoring.generation import TOTAL_TOKENS, samples
from tests.kg_edit.tiny import tiny

PROMPTS = ("LeBron James plays for the", "Where does the river Thames flow?")


def test_a_text_depends_on_its_prompt_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "TOTAL_TOKENS", 40)
    model, state = tiny("llama"), torch.get_rng_state()
    both = samples(model, PROMPTS)
    torch.manual_seed(3)
    assert samples(model, PROMPTS[::-1]) == both
    assert samples(model, PROMPTS[:1]) == {PROMPTS[0]: both[PROMPTS[0]]}
    torch.set_rng_state(state)
    samples(model, PROMPTS)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_the_prompt_is_in_the_text_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    model, widths = tiny("llama"), []
    generate = model.model.generate

    def watched(*args: Any, **options: Any) -> torch.Tensor:
        widths.append(generate(*args, **options).shape[1])
        return generate(*args, **options)

    monkeypatch.setattr(model.model, "generate", watched)
    assert all(text.startswith(prompt) for prompt, text in samples(model, PROMPTS).items())
    assert max(widths) <= TOTAL_TOKENS
    assert max(widths) > len(encode(model.tokenizer, PROMPTS[1]).ids) + 5
    long = "a" * (TOTAL_TOKENS + 1)
    assert samples(model, [long]) == {long: long}


def test_sampling_is_not_greedy() -> None:
    model = tiny("llama")
    ids = torch.tensor([encode(model.tokenizer, PROMPTS[0]).ids])
    greedy = model.tokenizer.decode(model.model.generate(ids, max_new_tokens=60, do_sample=False)[0])
    assert not samples(model, PROMPTS)[PROMPTS[0]].startswith(greedy)

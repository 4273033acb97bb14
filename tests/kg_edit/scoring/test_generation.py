from __future__ import annotations

from typing import Any

import pytest
import torch

from kg_edit.errors import ModelError
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode
from kg_edit.scoring import generation
from kg_edit.scoring.generation import TOTAL_TOKENS, continuations, samples
from tests.kg_edit.tiny import tiny

PROMPTS = ("LeBron James plays for the", "Where does the river Thames flow?", "Paris")


@torch.no_grad()
def step_by_step(model: LanguageModel, prompt: str, limit: int) -> str:
    """Greedy decoding without a cache, a batch or padding."""
    ids, written = list(encode(model.tokenizer, prompt).ids), []
    while len(written) < limit:
        token = int(model.model(torch.tensor([ids + written])).logits[0, -1].argmax())
        if token == model.tokenizer.eos_token_id:
            break
        written.append(token)
        if "\n" in model.tokenizer.decode([token]):
            break
    return str(model.tokenizer.decode(written, skip_special_tokens=True)).split("\n")[0]


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_batch_with_limits_equals_step_by_step(name: str) -> None:
    model, limits = tiny(name), (3, 9, 6)
    expected = tuple(step_by_step(model, prompt, limit) for prompt, limit in zip(PROMPTS, limits, strict=True))
    assert continuations(model, PROMPTS, limits=limits) == expected


@pytest.mark.slow
def test_real_model_stops_at_the_end_of_the_line(smollm2: LanguageModel) -> None:
    prompts = (
        "Question: What is the capital of France?\nAnswer: Paris\n\nQuestion: And of Italy?\nAnswer:",
        "1, 2, 3,",
    )
    assert continuations(smollm2, prompts, limits=(20, 4)) == (
        step_by_step(smollm2, prompts[0], 20),
        step_by_step(smollm2, prompts[1], 4),
    )


@pytest.mark.slow
def test_paragraph_has_several_lines(smollm2: LanguageModel) -> None:
    prompt = "Question: Who wrote Hamlet?\nAnswer: Shakespeare.\n\nQuestion: Who painted Guernica?\nAnswer:"
    (line,) = continuations(smollm2, [prompt], limits=[12])
    (text,) = continuations(smollm2, [prompt], limits=[12], several_lines=True)
    assert text.startswith(line.strip()) and len(text) > len(line) and "\n" not in text


def test_models_own_generation_settings_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    before = continuations(model, PROMPTS, limits=(8, 8, 8))
    settings = model.model.generation_config
    for name, value in {"do_sample": True, "temperature": 9.0, "repetition_penalty": 9.0, "num_beams": 3}.items():
        monkeypatch.setattr(settings, name, value)
    assert continuations(model, PROMPTS, limits=(8, 8, 8)) == before


@pytest.mark.parametrize("name", ["gpt2", "gptj", "mpt", "opt"])
def test_prompt_longer_than_the_models_positions_is_named(name: str) -> None:
    model = tiny(name)
    fits = "a" * 100
    assert len(encode(model.tokenizer, fits).ids) == 100
    continuations(model, [fits], limits=[28])
    refused = rf"prompt '{'a' * 60}…' has 100 tokens, and 29 more .* tiny-{name} has positions for 128. Shorten"
    with pytest.raises(ModelError, match=refused):
        continuations(model, [fits], limits=[29])


def test_angles_are_computed_for_any_length() -> None:
    assert len(continuations(tiny("llama"), ["a" * 200], limits=[2])) == 1


def test_no_prompts_give_no_texts() -> None:
    assert continuations(tiny("llama"), (), limits=()) == ()


@pytest.mark.slow
def test_text_depends_on_its_prompt_alone(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_prompt_is_in_the_text_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.slow
def test_sampling_is_not_greedy() -> None:
    model = tiny("llama")
    ids = torch.tensor([encode(model.tokenizer, PROMPTS[0]).ids])
    greedy = model.tokenizer.decode(model.model.generate(ids, max_new_tokens=60, do_sample=False)[0])
    assert not samples(model, PROMPTS)[PROMPTS[0]].startswith(greedy)

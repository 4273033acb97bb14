"""A fact's whole trace: its grid is the restored runs', its roles the paper's, the answer the one asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kg_edit.edits.edit import Edit
from kg_edit.errors import ModelError
from kg_edit.evaluation.tracing.corrupted_run import CleanRun, CorruptedRun, draw_noise, noise_level, window_around
from kg_edit.evaluation.tracing.trace import (
    BEFORE,
    END,
    FIRST,
    FURTHER,
    LAST,
    MIDDLE,
    NEXT,
    TracedFact,
    TraceSettings,
    facts_of,
    is_known,
    prompt_of,
    read_known,
    roles,
    trace,
)
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, encode
from tests.kg_edit.tiny import chatting, tiny

FACT = TracedFact(id="1", subject="LeBron James", prompt="Today {} plays for", answer="Miami Heat")


def placed(first: int, last: int, length: int) -> tuple[str, ...]:
    return roles(Prompt(text="", ids=(0,) * length, target_start=length, subject_first=first, subject_last=last))


def test_roles_name_each_token() -> None:
    assert placed(1, 4, 9) == (BEFORE, FIRST, MIDDLE, MIDDLE, LAST, NEXT, FURTHER, FURTHER, END)
    assert placed(0, 1, 4) == (FIRST, LAST, NEXT, END)
    assert placed(0, 0, 3) == (LAST, NEXT, END)
    assert placed(0, 0, 2) == (LAST, END)
    assert placed(1, 2, 3) == (BEFORE, FIRST, LAST)


@pytest.mark.parametrize("kind", ["hidden", "mlp"])
def test_trace_grid_equals_the_restored_runs(kind: str) -> None:
    model = tiny("llama")
    settings = TraceSettings(kind=kind, window=None if kind == "hidden" else 3, samples=4, seed=2)  # type: ignore[arg-type]
    traced = trace(model, FACT, settings, level=1.5)
    prompt = encode(model.tokenizer, FACT.prompt, subject=FACT.subject)
    clean = CleanRun(model, prompt, kind=settings.kind)
    answer = int(clean.probabilities.argmax())
    noise = draw_noise(model, prompt, level=1.5, samples=4, seed=2)
    run = CorruptedRun(clean, noise=noise, answer=answer)
    assert traced.clean == pytest.approx(float(clean.probabilities.max()))
    assert traced.corrupted == pytest.approx(float(run.probability.mean()), rel=1e-4)
    for layer in range(4):
        layers = window_around(layer, size=1 if kind == "hidden" else 3, layers=4)
        expected = run.restore(layers, [[token] for token in range(len(prompt.ids))]).mean(1)
        assert [row[layer] for row in traced.restored] == pytest.approx(expected.tolist(), rel=1e-3)
    assert traced.effects[-1][0] == pytest.approx(traced.restored[-1][0] - traced.corrupted)
    assert traced.roles == roles(prompt)
    assert "".join(traced.tokens) == "Today LeBron James plays for"
    assert traced.answer == model.tokenizer.decode([answer])


def test_chat_edit_is_traced_in_chat_form() -> None:
    edit = Edit(
        id="1", subject="LeBron James", prompt="Today {} plays for", target_new="Rome", target_true="Miami Heat"
    )
    plain, chat = (facts_of([edit.with_form(chat=form)])[0] for form in (False, True))
    assert plain == FACT
    model = chatting()
    assert prompt_of(model, chat).text == "<s><user>Complete the sentence: Today LeBron James plays for\n<assistant>"
    assert prompt_of(model, plain).text == FACT.text


def test_trace_answer_is_predicted_or_true() -> None:
    model = tiny("llama")
    predicted, actual = (
        trace(model, FACT, TraceSettings(samples=2, answer=answer), level=1.0)  # type: ignore[arg-type]
        for answer in ("predicted", "true")
    )
    assert actual.answer == model.tokenizer.decode([encode(model.tokenizer, "a", target="Miami Heat").target_ids[0]])
    assert predicted.answer != actual.answer
    assert predicted.clean > actual.clean
    assert predicted.known is actual.known is False
    assert is_known(model, FACT) is False


def test_fact_without_answer_traces_the_prediction_only() -> None:
    model, fact = tiny("llama"), FACT.model_copy(update={"answer": None})
    notes = list[str]()
    traced = trace(model, FACT, TraceSettings(samples=2), level=1.0, note=notes.append)
    assert notes == [f"layer {layer} of {len(model.blocks)}" for layer in range(1, len(model.blocks) + 1)]
    unknown = trace(model, fact, TraceSettings(samples=2), level=1.0)
    assert (unknown.known, unknown.answer) == (None, traced.answer)


def test_trace_of_a_model_in_training_mode_ignores_dropout() -> None:
    model = tiny("gpt2")  # has dropout
    expected = trace(model, FACT, TraceSettings(samples=2), level=1.0)
    state = torch.get_rng_state()
    model.model.train()
    try:
        assert trace(model, FACT, TraceSettings(samples=2), level=1.0) == expected
        assert model.model.training
    finally:
        model.model.eval()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("layer", [0, 3])
def test_trace_refuses_output_that_is_not_finite(layer: int) -> None:
    """No line of a run may hold what JSON can't."""
    model = tiny("llama")
    weight = model.down_projection(layer).weight
    assert isinstance(weight, torch.Tensor)
    original = weight[0, 0].item()
    with torch.no_grad():
        weight[0, 0] = float("inf")
        try:
            with pytest.raises(ModelError, match="not finite"):
                trace(model, FACT, TraceSettings(samples=2), level=1.0)
        finally:
            weight[0, 0] = original


@pytest.mark.slow
def test_trace_of_a_known_fact_of_the_small_model(smollm2: LanguageModel, shared: Path) -> None:
    """As the paper has it: the noise hides the fact; the subject's end brings it back early, the prompt's end late."""
    facts = {fact.id: fact for fact in read_known(shared / "known_1000.json")[:60]}
    (fact,) = [fact for fact in facts.values() if fact.text == "Catalonia belongs to the continent of"]
    prompts = [encode(smollm2.tokenizer, fact.prompt, subject=fact.subject) for fact in facts.values()]
    traced = trace(smollm2, fact, TraceSettings(kind="hidden", samples=3), level=noise_level(smollm2, prompts))
    assert (traced.answer, traced.known) == (" Europe", True)
    total = traced.clean - traced.corrupted
    assert total > 0.1
    last = dict(zip(traced.roles, traced.effects, strict=True))
    early = range(3, 10)
    assert max(last[LAST][layer] for layer in early) > 0.5 * total
    assert abs(last[LAST][29]) < 1e-3  # after the last layer nothing reads it any more
    assert max(last[END][layer] for layer in early) < 0.2 * total
    assert last[END][29] == pytest.approx(total, rel=1e-3)

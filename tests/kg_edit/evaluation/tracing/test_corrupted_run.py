"""Putting clean states back: the batched, shortened way against one whole forward a state, and what must come out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kg_edit.errors import UnsupportedModelError
from kg_edit.evaluation.tracing.corrupted_run import (
    KINDS,
    CleanRun,
    CorruptedRun,
    Kind,
    default_window,
    draw_noise,
    noise_level,
    subject_tokens,
    window_around,
)
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, encode
from tests.everyday import keep_first
from tests.kg_edit.tiny import families, tiny

SAMPLES, ANSWER = 3, 77


def prompt_of(model: LanguageModel, template: str = "In Paris, {} plays for") -> Prompt:
    return encode(model.tokenizer, template, subject="LeBron James")


def runs(
    model: LanguageModel, kind: Kind = "hidden", *, tokens: int = 1024
) -> tuple[Prompt, Tensor, CleanRun, CorruptedRun]:
    prompt = prompt_of(model)
    noise = draw_noise(model, prompt, level=noise_level(model, [prompt]), samples=SAMPLES, seed=1)
    clean = CleanRun(model, prompt, kind=kind)
    return prompt, noise, clean, CorruptedRun(clean, noise=noise, answer=ANSWER, tokens=tokens)


def attention_of(block: nn.Module) -> nn.Module:
    names = {"attn", "self_attn", "attention", "self_attention"}
    (attention,) = (module for name, module in block.named_children() if name in names)
    return attention


def plain_site(model: LanguageModel, kind: Kind, layer: int) -> nn.Module:
    """The paper's modules, found without the table: a whole MLP where there is one, an attention by its name.

    The MLPs of BLOOM and MPT add the residual themselves: their second matrix is the site.
    """
    block = model.blocks[layer]
    if kind == "mlp":
        mlp = (
            getattr(block, "mlp", None)
            or getattr(block, "ffn", None)
            or getattr(block, "feed_forward", None)
            or block.fc2
        )
        inner = {"bloom": "dense_4h_to_h", "mpt": "down_proj"}.get(model.text_config.model_type)
        return getattr(mlp, inner) if inner else mlp
    return block if kind == "hidden" else attention_of(block)


@contextmanager
def hooked(module: nn.Module, change: Any) -> Iterator[None]:
    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    with module.register_forward_hook(hook):
        yield


@torch.no_grad()
def plainly(
    model: LanguageModel, prompt: Prompt, noise: Tensor, kind: Kind, layers: Sequence[int], tokens: Sequence[int]
) -> Tensor:
    """[samples]: the whole model once for each sample, nothing shared."""
    ids, clean = torch.tensor([prompt.ids]), dict[int, Tensor]()

    def keep(layer: int) -> Any:
        def copy(state: Tensor) -> Tensor:
            clean[layer] = state.reshape(1, len(prompt.ids), -1).clone()
            return state

        return copy

    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(hooked(plain_site(model, kind, layer), keep(layer)))
        model.model(input_ids=ids)
    probabilities = []
    for drawn in noise:

        def corrupt(embedded: Tensor, drawn: Tensor = drawn) -> Tensor:
            changed = embedded.clone()
            changed[0, subject_tokens(prompt)] += drawn
            return changed

        def put_back(layer: int) -> Any:
            def change(state: Tensor) -> Tensor:
                changed = state.reshape(1, len(prompt.ids), -1).clone()
                for token in tokens:
                    changed[0, token] = clean[layer][0, token]
                return changed.reshape(state.shape)

            return change

        with ExitStack() as stack:
            stack.enter_context(hooked(model.model.get_input_embeddings(), corrupt))
            for layer in layers:
                stack.enter_context(hooked(plain_site(model, kind, layer), put_back(layer)))
            probabilities.append(model.model(input_ids=ids).logits[0, -1].float().softmax(-1)[ANSWER])
    return torch.stack(probabilities)


@pytest.mark.parametrize("kind", keep_first(KINDS))
@pytest.mark.parametrize("family", families(("gpt2",)))
def test_restored_equals_one_whole_forward_per_state(family: str, kind: Kind) -> None:
    model = tiny(family)
    if kind == "attention" and model.is_recurrent:
        with pytest.raises(UnsupportedModelError, match=r"has no attention at model\.layers\.0\.self_attn"):
            runs(model, kind)
        return
    prompt, noise, _, run = runs(model, kind)
    token_sets = [[token] for token in range(len(prompt.ids))]
    window = 1 if kind == "hidden" else 2
    for layer in range(4):
        layers = window_around(layer, size=window, layers=4)
        restored = run.restore(layers, token_sets)
        plain = torch.stack([plainly(model, prompt, noise, kind, layers, tokens) for tokens in token_sets])
        torch.testing.assert_close(restored, plain, rtol=1e-3, atol=1e-7)
        moved = (plain - run.probability).abs().amax(1)
        first = subject_tokens(prompt).start
        assert first > 0
        assert float(moved[first:].max()) > 1e-4 * float(run.probability.max())  # a test that tells something
        assert float(moved[:first].max()) <= 1e-5 * float(run.probability.max())  # clean already


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [100, 1, 10_000])
def test_restored_does_not_depend_on_the_batch_size(tokens: int) -> None:
    model = tiny("gemma2")
    prompt, noise, _, run = runs(model, "mlp", tokens=tokens)
    token_sets = [[token] for token in range(len(prompt.ids))]
    restored = run.restore(range(1, 3), token_sets)
    plain = torch.stack([plainly(model, prompt, noise, "mlp", range(1, 3), token_set) for token_set in token_sets])
    torch.testing.assert_close(restored, plain, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt-350m"])
def test_restoring_all_tokens_gives_the_clean_run_and_none_the_corrupted(family: str) -> None:
    model = tiny(family)
    prompt, _, clean, run = runs(model)
    every = list(range(len(prompt.ids)))
    expected = float(clean.probabilities[ANSWER])
    for layer in range(4):
        all_back, nothing = run.restore(range(layer, layer + 1), [every, []])
        torch.testing.assert_close(all_back, torch.full((SAMPLES,), expected), rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(nothing, run.probability, rtol=1e-4, atol=1e-8)
    assert float((run.probability - expected).abs().min()) > 1e-2 * expected
    assert len(set(run.probability.tolist())) == SAMPLES
    assert run.restore(range(1), []).shape == (0, SAMPLES)


def test_restoring_the_last_layer_matters_at_the_last_token_only() -> None:
    """The answer is read from it, so it brings all back; any other token's last state nothing."""
    prompt, _, clean, run = runs(tiny("llama"))
    restored = run.restore(range(3, 4), [[len(prompt.ids) - 1], [prompt.edited_at]])
    assert restored[0].tolist() == pytest.approx([float(clean.probabilities[ANSWER])] * SAMPLES, rel=1e-4)
    assert restored[1].tolist() == pytest.approx(run.probability.tolist(), rel=1e-5)


def test_corrupted_run_with_zero_noise_is_clean() -> None:
    """The embeddings of all subject tokens put back."""
    model = tiny("llama")
    _, noise, clean, _ = runs(model)
    run = CorruptedRun(clean, noise=torch.zeros_like(noise), answer=ANSWER)
    assert run.probability.tolist() == pytest.approx([float(clean.probabilities[ANSWER])] * SAMPLES, rel=1e-5)


def test_clean_probabilities_are_those_of_the_model() -> None:
    model = tiny("phi")
    prompt, _, clean, _ = runs(model)
    with torch.no_grad():
        expected = model.model(torch.tensor([prompt.ids])).logits[0, -1].softmax(-1)
    torch.testing.assert_close(clean.probabilities, expected)


def test_restored_leaves_no_hooks() -> None:
    model = tiny("llama")
    _, _, _, run = runs(model)
    run.restore(range(2), [[0]])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.model.modules())


def test_window_is_centred_and_cut_off() -> None:
    """The paper's own: layer - 5 to layer + 4 of 48."""
    assert window_around(20, size=10, layers=48) == range(15, 25)
    assert window_around(2, size=10, layers=48) == range(0, 7)
    assert window_around(47, size=10, layers=48) == range(42, 48)
    assert window_around(3, size=1, layers=48) == range(3, 4)
    assert window_around(3, size=3, layers=48) == range(2, 5)
    model = tiny("llama")
    assert (default_window(model, "hidden"), default_window(model, "mlp")) == (1, 1)


def test_noise_level_is_three_deviations_of_the_subjects_embeddings() -> None:
    model = tiny("llama")
    prompts = [prompt_of(model), encode(model.tokenizer, "{} plays", subject="Dwyane Wade")]
    ids = [token for prompt in prompts for token in prompt.ids[subject_tokens(prompt)[0] : prompt.edited_at + 1]]
    assert model.tokenizer.decode(ids).replace(" ", "") == "LeBronJamesDwyaneWade"
    values = model.model.get_input_embeddings().weight[torch.tensor(ids)].flatten().tolist()
    mean = sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    assert noise_level(model, prompts) == pytest.approx(3 * deviation, rel=1e-4)


def test_noise_is_seeded_by_its_prompt() -> None:
    model = tiny("llama")
    prompt, other = prompt_of(model), prompt_of(model, "Today {} plays for")
    state = torch.get_rng_state()

    def drawn(of: Prompt, seed: int) -> Tensor:
        return draw_noise(model, of, level=2.0, samples=400, seed=seed)

    assert torch.equal(drawn(prompt, 0), drawn(prompt, 0))
    assert not torch.equal(drawn(prompt, 0), drawn(prompt, 1))
    assert not torch.equal(drawn(prompt, 0), drawn(other, 0))
    assert float(drawn(prompt, 0).std()) == pytest.approx(2.0, rel=0.02)
    assert torch.equal(torch.get_rng_state(), state)

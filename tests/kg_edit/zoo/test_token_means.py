"""The mean over a token and all before it, however the text reaches the model."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, StaticCache

from kg_edit.engine.prefix_cache import base_model, run_prefix
from kg_edit.errors import PatchError
from kg_edit.models.hooks import watch
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import left_pad
from kg_edit.scoring.token_tree import TokenTree, TreeRows
from kg_edit.zoo.token_means import TokenMeans
from tests.everyday import keep_first
from tests.kg_edit.tiny import KINDS_OF_FAMILY, tiny

LAYER = 1
LONG, SHORT = "The quick brown fox jumps over the lazy dog.", "The quick Rome"


def ids_of(model: LanguageModel, text: str) -> tuple[int, ...]:
    return model.encode(text).ids


class Seen:
    """The module's inputs and their means, of all calls."""

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.inputs, self.means = model, list[torch.Tensor](), list[torch.Tensor]()

    @torch.no_grad()
    def run(self, **options: object) -> None:
        with TokenMeans(self.model, LAYER, name="test").attached() as means:

            def see(inputs: torch.Tensor, _: torch.Tensor) -> None:
                flat = inputs.reshape(-1, inputs.shape[-1])
                self.inputs.append(flat)
                self.means.append(means.of(flat))

            with watch(self.model.down_projection(LAYER), see):
                base_model(self.model)(**options)


@pytest.mark.parametrize("family", ["mistral", pytest.param("phi3", marks=pytest.mark.slow)])
def test_means_ignore_a_sliding_window(family: str) -> None:
    """In one go, or token by token with transformers' own cache: the mean over the whole text."""
    model, text = tiny(family), LONG
    expected = alone(model, text)
    batch, padded = left_pad([ids_of(model, text), ids_of(model, text)[-4:]], device=model.device), Seen(model)
    padded.run(input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions)
    means = padded.means[0].reshape(2, len(expected), -1)[0]
    torch.testing.assert_close(means, expected, rtol=1e-3, atol=1e-4)
    for sizes in ((7, 1, 2), (2, 8)):
        piecewise, cache = Seen(model), DynamicCache(config=model.model.config)
        for part in torch.tensor([ids_of(model, text)]).split(sizes, 1):
            piecewise.run(input_ids=part, past_key_values=cache, use_cache=True)
        torch.testing.assert_close(torch.cat(piecewise.means), expected, rtol=1e-3, atol=1e-4)


def alone(model: LanguageModel, text: str) -> torch.Tensor:
    """The plain way: the running mean of the inputs of one text."""
    seen = Seen(model)
    seen.run(input_ids=torch.tensor([ids_of(model, text)]))
    inputs = seen.inputs[0]
    expected = inputs.cumsum(0) / torch.arange(1, len(inputs) + 1)[:, None]
    torch.testing.assert_close(seen.means[0], expected, rtol=1e-4, atol=1e-5)
    return expected


@pytest.mark.parametrize("family", keep_first(("mpt", *KINDS_OF_FAMILY), keep=3))
def test_means_of_padded_rows_equal_rows_alone(family: str) -> None:
    model = tiny(family)
    rows = [ids_of(model, LONG), ids_of(model, SHORT)]
    batch, seen = left_pad(rows, device=model.device), Seen(model)
    seen.run(input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions)
    means = seen.means[0].reshape(2, batch.ids.shape[1], -1)
    for row, text in zip(means, (LONG, SHORT), strict=True):
        expected = alone(model, text)
        if family != "gemma2":  # whose window is 5 tokens: the mean is over what it shows
            torch.testing.assert_close(row[-len(expected) :], expected, rtol=1e-3, atol=1e-4)


def test_means_of_packed_texts_do_not_mix() -> None:
    model, tree = tiny("llama"), TokenTree()
    paths = [tree.add(ids_of(model, text)) for text in (LONG, SHORT)]
    seen = Seen(model)
    rows = TreeRows([tree])
    seen.run(input_ids=rows.ids(), position_ids=rows.positions(), attention_mask=rows.mask(model.model.dtype))
    for path, text in zip(paths, (LONG, SHORT), strict=True):
        torch.testing.assert_close(seen.means[0][path], alone(model, text), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_means_with_a_cache_equal_the_whole_text(family: str) -> None:
    """The sums go with the prefix: through its rows, a growing cache, and a frozen one, which keeps nothing."""
    model = tiny(family)
    rows = [ids_of(model, LONG), ids_of(model, SHORT)]
    with TokenMeans(model, LAYER, name="test").attached() as means:

        def note(inputs: torch.Tensor, _: torch.Tensor) -> None:
            means.of(inputs.reshape(-1, inputs.shape[-1]))

        with watch(model.down_projection(LAYER), note):
            prefix = run_prefix(model, [row[:2] for row in rows])
    assert set(prefix.sums) == {"1/test"}
    for cache in (
        prefix.frozen(len(model.blocks)),
        prefix.select_rows(torch.tensor([0, 1])).growing(len(model.blocks)),
    ):
        seen = Seen(model)
        for _ in range(2):
            batch = left_pad([row[2:] for row in rows], device=model.device)
            seen.run(
                input_ids=batch.ids,
                attention_mask=torch.cat([prefix.mask, batch.mask], -1),
                position_ids=prefix.lengths + batch.positions,
                past_key_values=cache,
                use_cache=True,
            )
            if cache.stores_sums:  # type: ignore[attr-defined]
                break
        for means_now in seen.means:
            by_row = means_now.reshape(2, batch.ids.shape[1], -1)
            torch.testing.assert_close(by_row[0], alone(model, LONG)[2:], rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(by_row[1, -1], alone(model, SHORT)[-1], rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_sums_follow_beams_and_refuse_a_crop() -> None:
    model, seen = tiny("llama"), Seen(tiny("llama"))
    rows = [ids_of(model, LONG)[:5], ids_of(model, "Rome and Paris in the river")[:5]]
    cache = DynamicCache(config=model.model.config)
    seen.run(input_ids=torch.tensor(rows), past_key_values=cache, use_cache=True)
    cache.reorder_cache(torch.tensor([1, 0]))  # type: ignore[arg-type]
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([0, 2]))
    seen.run(input_ids=torch.tensor([[5], [5]]), past_key_values=cache, use_cache=True)
    at_once = Seen(model)
    at_once.run(input_ids=torch.tensor([[*rows[1], 5], [*rows[0], 5]]))
    torch.testing.assert_close(seen.means[-1], at_once.means[0].reshape(2, 6, -1)[:, -1], rtol=1e-3, atol=1e-4)
    assert isinstance(cache, DynamicCache)
    with pytest.raises(PatchError, match="without an assistant model"):
        cache.crop(1)


@torch.no_grad()
def test_static_cache_with_padding_is_refused() -> None:
    """The mask of a static cache is as wide as its buffer: its last columns are not those of the new tokens."""
    model, seen = tiny("llama"), Seen(tiny("llama"))
    rows = left_pad([ids_of(model, LONG), ids_of(model, SHORT)], device=model.device)
    cache = StaticCache(config=model.model.config, max_cache_len=64)
    with pytest.raises(PatchError, match="generate without cache_implementation"):
        seen.run(input_ids=rows.ids, attention_mask=rows.mask, past_key_values=cache, use_cache=True)


def test_means_of_unseen_tokens_are_the_tokens() -> None:
    means = TokenMeans(tiny("llama"), LAYER, name="test").of(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert torch.equal(means, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))

"""The beginnings of prompts that are shared by edits: the same as computed anew, and never an older model's."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from kg_edit.engine import prefix_store
from kg_edit.engine.prefix_cache import SharedContexts, run_prefix
from kg_edit.engine.prefix_store import PrefixStore, model_state, quick_state
from kg_edit.models.language_model import LanguageModel
from tests.kg_edit.tiny import tiny

STARTS = [(5, 6, 7, 8), (5, 9), (), (11, 12, 13)]
ROWS = [[5, 6, 7, 8, 20], [5, 9, 21, 22], [30, 31], [11, 12, 13, 14]]


@contextmanager
def computed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[tuple[int, ...]]]]:
    """The rows of each batch that the store computes."""
    seen, plain = list[list[tuple[int, ...]]](), prefix_store.run_prefix

    def noted(model: LanguageModel, rows: list[tuple[int, ...]]) -> prefix_store.Prefix:
        seen.append(list(rows))
        return plain(model, rows)

    with monkeypatch.context() as patch:
        patch.setattr(prefix_store, "run_prefix", noted)
        yield seen


def check(model: LanguageModel, shared: SharedContexts) -> None:
    """What comes after rows is the same with them as with beginnings that are computed anew."""
    plain = SharedContexts.of_starts(model, STARTS).prefix(model, ROWS)
    mine = shared.prefix(model, ROWS)
    assert torch.equal(mine.lengths, plain.lengths)
    for states, plain_states in zip(mine.layers, plain.layers, strict=True):
        for state, expected in zip(states, plain_states, strict=True):
            for row in range(len(ROWS)):
                real, real_plain = mine.mask[row].bool(), plain.mask[row].bool()
                torch.testing.assert_close(state[row, :, real], expected[row, :, real_plain], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon-alibi"])
def test_prefix_store_computes_each_start_once(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also an empty one, and beginnings of several calls side by side, whose lengths differ."""
    model, store = tiny(family), PrefixStore()
    with computed(monkeypatch) as seen:
        check(model, store.find_contexts(model, STARTS[:2]))
        check(model, store.find_contexts(model, STARTS))
        check(model, store.find_contexts(model, STARTS))
    assert seen == [[(5, 6, 7, 8), (5, 9)], [(11, 12, 13)]]


def test_prefix_store_recomputes_for_another_model_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed weight, and a hook as adapters use them; with both taken back the first state is known again."""
    model, store = copy.deepcopy(tiny("llama")), PrefixStore()
    weight = model.down_projection(1).weight
    before = weight.detach().clone()
    with computed(monkeypatch) as seen:
        first = store.find_contexts(model, STARTS)
        with torch.no_grad():
            weight += torch.outer(torch.ones(weight.shape[0]), torch.randn(weight.shape[1]))
        check(model, store.find_contexts(model, STARTS))
        with torch.no_grad():
            weight.copy_(before)
        hook = model.blocks[0].register_forward_hook(lambda _module, _inputs, _output: None)
        store.find_contexts(model, STARTS)
        hook.remove()
        check(model, store.find_contexts(model, STARTS))
    assert len(seen) == 3 and all(rows == seen[0] for rows in seen)
    check(model, first)


def test_model_state_is_that_of_a_copy() -> None:
    """But not in another dtype."""
    model = tiny("llama")
    same, other = copy.deepcopy(model), copy.deepcopy(model)
    other.model.to(torch.float64)
    assert model_state(same) == model_state(model) != model_state(other)


def test_prefix_store_removes_least_recently_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    keys, values = SharedContexts.of_starts(model, [(1,)]).prefix(model, [(1,)]).layers[0]
    token = len(model.blocks) * (keys.numel() * keys.element_size() + values.numel() * values.element_size())
    store = PrefixStore(megabytes=5.5 * token / 2**20)
    with computed(monkeypatch) as seen:
        for starts in ([(5, 6, 7)], [(8, 9)], [(5, 6, 7)], [(10,)], [(5, 6, 7)], [(8, 9)]):
            store.find_contexts(model, starts)
    assert seen == [[(5, 6, 7)], [(8, 9)], [(10,)], [(8, 9)]]


def test_what_was_read_with_a_whole_row_is_kept_for_its_beginning() -> None:
    """Of the row 5, 6, 7, 8, 20 the first four tokens; within the limit, and only for the model that read them."""
    model = copy.deepcopy(tiny("llama"))
    store = PrefixStore(find_state=quick_state)
    store.keep(model, STARTS[0], run_prefix(model, [tuple(ROWS[0])]))
    kept = store.find(model, STARTS[0])
    assert kept is not None
    row = [*STARTS[0], 30, 31]
    computed_anew = SharedContexts.of_starts(model, STARTS[:1]).prefix(model, [row])
    for states, expected in zip(kept.prefix(model, [row]).layers, computed_anew.layers, strict=True):
        for state, expected_state in zip(states, expected, strict=True):
            torch.testing.assert_close(state, expected_state, rtol=1e-4, atol=1e-5)
    assert store.find(model, STARTS[1]) is None
    with torch.no_grad():
        next(model.model.parameters()).mul_(2)
    assert store.find(model, STARTS[0]) is None
    full = PrefixStore(megabytes=0, find_state=quick_state)
    full.keep(model, STARTS[0], run_prefix(model, [tuple(ROWS[0])]))
    assert full.find(model, STARTS[0]) is None


def test_quick_state_notices_hooks_and_changed_weights() -> None:
    model = copy.deepcopy(tiny("llama"))
    states = [quick_state(model)]
    hook = model.blocks[0].register_forward_hook(lambda _module, _inputs, _output: None)
    states.append(quick_state(model))
    hook.remove()
    assert quick_state(model) == states[0]
    with torch.no_grad():
        next(model.model.parameters()).add_(1)
    states.append(quick_state(model))
    assert len(set(states)) == 3

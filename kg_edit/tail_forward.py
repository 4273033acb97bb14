"""The fast way to ask what a change does: run only what it can reach.

A change at the subject's last token in layer l reaches that token from layer l on, and later tokens from layer l+1 on.
Everything before is computed once: the prefix as a key/value cache, the later tokens' states up to layer l+1. The
blocks are the model's own and get the arguments that the model itself gave them, so masks, windows, positions, norms
after the MLP and parallel attention are right by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from kg_edit.hooks import Call, added, hidden_state, recorded, watched
from kg_edit.language_model import LanguageModel
from kg_edit.plain_forward import read_index, read_positions
from kg_edit.prompts import Batch, Prompt, left_pad


class TailForward:
    """Same answers as `PlainForward`, from the tail tokens alone.

    ``keys`` [rows, d_ff] and ``values`` [rows, d] are the clean input and output of the down-projection there.
    """

    def __init__(self, model: LanguageModel, layer: int, rows: Sequence[Prompt]) -> None:
        self._model, self._layer = model, layer
        self._prefix, self._cache = _run_prefix(model, [row.ids[: row.edited_at] for row in rows])
        tails = [_tail(row) for row in rows]
        self._reads = read_index(rows, [-row.edited_at for row in rows], model.device)
        with torch.no_grad():
            self._record_edited_block(tails)
            self._record_blocks_above(tails)

    def _record_edited_block(self, tails: list[Sequence[int]]) -> None:
        """The edited block's call with the subject's last token alone; key and value there."""
        seen: list[Tensor] = []
        with watched(self._model.down_projection(self._layer), lambda key, value: seen.extend((key, value))):
            calls, _ = self._record([tail[:1] for tail in tails])
        self.keys, self.values = (state.reshape(len(tails), -1) for state in seen)
        self._edited_call = calls[self._layer]

    def _record_blocks_above(self, tails: list[Sequence[int]]) -> None:
        calls, final = self._record(tails)
        self._calls = [calls[index] for index in range(self._layer + 1, len(self._model.blocks))]
        self._clean_final = final
        self._clean_later = (_first(calls[self._layer + 1]) if self._calls else final)[:, 1:]

    def _record(self, tails: Sequence[Sequence[int]]) -> tuple[dict[int, Call], Tensor]:
        """Run the model once over the tails; the blocks' calls, and the last block's output."""
        width = max(len(tail) for tail in tails)
        device = self._model.device
        ids = torch.tensor([[*tail, *[0] * (width - len(tail))] for tail in tails], device=device)
        real = torch.tensor([[1] * len(tail) + [0] * (width - len(tail)) for tail in tails], device=device)
        lengths = self._prefix.mask.sum(-1, keepdim=True)
        calls: dict[int, Call] = {}
        final: list[Tensor] = []
        with (
            recorded(self._model.blocks, calls),
            watched(self._model.blocks[-1], lambda _, out: final.append(out)),
        ):
            _base(self._model)(
                input_ids=ids,
                attention_mask=torch.cat([self._prefix.mask, real], -1),
                position_ids=lengths + torch.arange(width, device=device),
                past_key_values=self._cache,
                use_cache=True,
            )
        return calls, final[0]

    def logits(self, change: Tensor | None = None) -> Tensor:
        """Logits [reads, vocabulary] wherever the loss reads them, with ``change`` [rows, d] (None: the clean model).

        Read are, row after row: each position that predicts a target token; for a row without target, the subject's
        last token.
        """
        hidden = self._clean_final if change is None else self._changed(change)
        return self._model.logits(hidden[self._reads])

    def _changed(self, change: Tensor) -> Tensor:
        module = self._model.down_projection(self._layer)
        with added(module, lambda output: output + change.to(output).reshape(output.shape)):
            first = self._call(self._layer, self._edited_call, _first(self._edited_call))
        hidden = torch.cat([first, self._clean_later.to(first.device)], 1)
        for index, call in enumerate(self._calls, start=self._layer + 1):
            hidden = self._call(index, call, hidden)
        return hidden

    def _call(self, index: int, call: Call, hidden: Tensor) -> Tensor:
        args, kwargs = call
        if args:
            return hidden_state(self._model.blocks[index](hidden, *args[1:], **kwargs))
        return hidden_state(self._model.blocks[index](**{**kwargs, "hidden_states": hidden}))


class _FrozenLayer(DynamicLayer):
    """A cache layer that hands out the prefix with the new tokens after it, and keeps nothing of them."""

    def hold(self, filled: Any) -> None:
        """Take over the keys and values of ``filled``, without copying."""
        self.lazy_initialization(filled.keys, filled.values)
        self.keys, self.values = filled.keys, filled.values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            return key_states, value_states
        assert self.keys is not None and self.values is not None  # noqa: S101 - initialised
        return torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2)


def _run_prefix(model: LanguageModel, prefixes: Sequence[Sequence[int]]) -> tuple[Batch, Cache]:
    """The prefixes as a batch, and their keys and values as a cache that no later call changes."""
    batch = left_pad(prefixes, device=model.device)
    frozen: list[Any] = [_FrozenLayer() for _ in model.blocks]  # type: ignore[no-untyped-call]
    if batch.ids.shape[1] == 0:
        return batch, Cache(layers=frozen)
    cache = DynamicCache()
    with torch.no_grad():
        _base(model)(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            past_key_values=cache,
            use_cache=True,
        )
    for layer, filled in zip(frozen, cache.layers, strict=True):
        layer.hold(filled)
    return batch, Cache(layers=frozen)


def _base(model: LanguageModel) -> torch.nn.Module:
    """The model without its head."""
    base: torch.nn.Module = model.model.base_model
    return base


def _first(call: Call) -> Tensor:
    args, kwargs = call
    state: Tensor = args[0] if args else kwargs["hidden_states"]
    return state


def _tail(row: Prompt) -> Sequence[int]:
    """The tokens that the loss can feel: from the subject's last one to the last one that predicts something."""
    return row.ids[row.edited_at : read_positions(row)[-1] + 1]

"""A prefix KV cache: keys and values of the tokens before an edit's own tokens, computed once.

1. `SharedContexts` has the keys and values of the contexts of a run; `SharedContexts.prefix` those of given rows.
2. `run_prefix` computes the keys and values of token rows.
3. A `Prefix` holds them, and passes them to a forward pass as a transformers cache, `Prefix.frozen` or
   `Prefix.growing`. The classes of these caches and of their layers come last.
4. `mask_decides` returns whether a row after a prefix gives the same result in this model as the whole row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.cache_utils import Cache, DynamicLayer

from kg_edit.engine.cache_sums import SummedCache
from kg_edit.models.architectures import refuse_recurrent
from kg_edit.models.hooks import tell_prompt_ends
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import encode, left_pad
from kg_edit.models.sampling import BARE


class SharedContexts:
    """The keys and values of token rows with which later rows begin, computed once for all of them.

    Mostly these token rows are the contexts of a run, and they are called contexts here whatever they are. The number
    of a context is its place in ``ids``, the tokens of all contexts, which must all be different. ``prefix`` has the
    keys and values, a row for each context.
    """

    def __init__(self, ids: Sequence[tuple[int, ...]], prefix: Prefix) -> None:
        self._ids = ids
        self._prefix = prefix

    @classmethod
    def of(cls, model: LanguageModel, contexts: Sequence[str]) -> Self:
        """Compute the keys and values of contexts, each up to where its prompt begins. All edits of a run use them."""
        return cls.of_starts(model, context_starts(model, contexts))

    @classmethod
    def of_starts(cls, model: LanguageModel, starts: Iterable[tuple[int, ...]]) -> Self:
        """Compute the keys and values of the token rows ``starts``; a recurrent model has none."""
        ids = list(dict.fromkeys(starts))
        if model.is_recurrent or not ids:
            return cls([], empty_prefix(model, 0))
        return cls(ids, run_prefix(model, ids))

    def prefix(self, model: LanguageModel, rows: Sequence[Sequence[int]], *, beyond: int = 0) -> Prefix:
        """Return `run_prefix` of rows, reusing the contexts with which they begin; ``beyond`` more tokens will follow.

        The whole rows are computed if a row begins with no context, or if `mask_decides` is false. If the rows are many
        for few contexts, as with many edits, the contexts' keys and values are not stored for each row.

        The columns of the result (-: padding), here for the contexts "a b" and "c" and three rows:

            a b d e       the row "a b d e" begins with the first context
            a b - f       "a b f"
            - c g h       "c g h" begins with the second
        """
        numbers = self._find_contexts(rows)
        if numbers is None:
            return run_prefix(model, rows)
        own_tokens = list[Sequence[int]]()  # of each row: those after its context
        for row, number in zip(rows, numbers, strict=True):
            own_tokens.append(row[len(self._ids[number]) :])
        columns = self._prefix.mask.shape[-1] + max(len(own) for own in own_tokens)
        if not mask_decides(model, columns + beyond):
            return run_prefix(model, rows)
        index = torch.tensor(numbers, device=model.device)
        prefix = run_prefix(model, own_tokens, after=self._prefix.select_rows(index))
        if len(numbers) < 2 * len(set(numbers)):  # fewer than two rows for a context
            return prefix
        return self._share_contexts(prefix, index)

    def _share_contexts(self, prefix: Prefix, index: Tensor) -> Prefix:
        """Return ``prefix`` with only its rows' own keys and values in ``layers``, and their contexts in ``shared``.

        ``index`` [rows] has the number of each row's context.
        """
        width = self._prefix.mask.shape[-1]  # the columns of the contexts, which come first
        own_layers = []
        for keys, values in prefix.layers:  # [rows, heads, columns, head size] both
            own_layers.append((keys[..., width:, :].clone(), values[..., width:, :].clone()))
        return replace(prefix, layers=tuple(own_layers), shared=SharedStart(self._prefix, index))

    def _find_contexts(self, rows: Sequence[Sequence[int]]) -> list[int] | None:
        """Return the number of the context with which each row begins; None if a row begins with none of them."""
        if not self._prefix.layers:
            return None
        numbers = list[int]()
        for row in rows:
            number = longest_start(self._ids, row)
            if number is None:
                return None
            numbers.append(number)
        return numbers

    def find_start(self, row: Sequence[int]) -> tuple[Prefix, int, int] | None:
        """Find the longest context with which a row begins, leaving at least one token of the row.

        Returns:
            The prefix, the context's row in it, and the context's length; None if no context fits.
        """
        number = longest_start(self._ids, row[:-1])
        if number is None:
            return None
        return self._prefix, number, len(self._ids[number])


def context_starts(model: LanguageModel, contexts: Iterable[str]) -> list[tuple[int, ...]]:
    """Return the tokens of each context up to where its prompt begins."""
    starts = []
    for context in contexts:
        text = context.partition(BARE)[0].rstrip()  # without the last space: the next token may include it
        starts.append(encode(model.tokenizer, text).ids)
    return starts


def longest_start(starts: Sequence[tuple[int, ...]], row: Sequence[int]) -> int | None:
    """Return the number of the longest of ``starts`` with which a row begins; None if it begins with none of them."""
    longest = None
    for number, ids in enumerate(starts):
        fits = tuple(row[: len(ids)]) == ids
        if fits and (longest is None or len(ids) > len(starts[longest])):
            longest = number
    return longest


def run_prefix(model: LanguageModel, rows: Sequence[Sequence[int]], *, after: Prefix | None = None) -> Prefix:
    """Compute the keys and values of token rows, each after the same row of ``after``.

    A patch that acts at the ends of prompts does nothing here, because no prompt ends in these rows.
    """
    before = empty_prefix(model, len(rows)) if after is None else after
    batch = left_pad(rows, device=model.device)
    if batch.ids.shape[1] == 0:
        return before
    if model.is_recurrent:
        refuse_recurrent(model.name)
    mask = torch.cat([before.mask, batch.mask], -1)
    cache = before.growing(len(model.blocks))
    with torch.no_grad(), tell_prompt_ends(model, None):
        base_model(model)(
            input_ids=batch.ids,
            attention_mask=mask,
            position_ids=before.lengths + batch.positions,
            past_key_values=cache,
            use_cache=True,
        )
    stored: list[Any] = list(cache.layers)
    layers = tuple((layer.keys, layer.values) for layer in stored)
    return Prefix(mask=mask, layers=layers, sums=dict(cache.token_sums))


class SharedStart(NamedTuple):
    """A prefix with which rows of another prefix begin.

    Attributes:
        prefix: the starts, each once.
        start_of_row: for each row of the other prefix the number of its start, [rows].
    """

    prefix: Prefix
    start_of_row: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Prefix:
    """Keys and values of rows of tokens, left-padded.

    Whoever reads ``layers`` of rows that may have a ``shared`` start calls `expand` before; `frozen` and `growing` give
    the model the whole rows.

    Attributes:
        mask: [rows, length], 1 = token.
        layers: the keys and the values of each block, both [rows, heads, length, head size]; empty if no row has a
            token.
        sums: what a patch that averages over tokens keeps for each row, by name (`kg_edit.engine.cache_sums`); empty
            without such a patch.
        shared: the starts that rows share. Then ``layers`` has only the keys and values after the start, and `expand`
            puts both together. None: ``layers`` has all.
    """

    mask: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...]
    sums: Mapping[str, Tensor] = field(default_factory=dict)
    shared: SharedStart | None = None

    @property
    def lengths(self) -> Tensor:
        """The number of tokens in each row, [rows, 1]."""
        return self.mask.sum(-1, keepdim=True)

    def select_rows(self, index: Tensor) -> Prefix:
        """Return the prefix of the rows with the numbers ``index`` [rows'], in this order."""
        layers = tuple((_pick_rows(keys, index), _pick_rows(values, index)) for keys, values in self.layers)
        sums = {name: _pick_rows(state, index) for name, state in self.sums.items()}
        shared = None
        if self.shared is not None:
            shared = SharedStart(self.shared.prefix, self.shared.start_of_row[index])
        return Prefix(mask=_pick_rows(self.mask, index), layers=layers, sums=sums, shared=shared)

    def expand(self) -> Prefix:
        """Return the prefix with the keys and values of its ``shared`` start in its own ``layers``."""
        if self.shared is None:
            return self
        starts, start_of_row = self.shared
        layers = []
        for (keys, values), (own_keys, own_values) in zip(starts.layers, self.layers, strict=True):
            all_keys = torch.cat([_pick_rows(keys, start_of_row), own_keys], -2)
            all_values = torch.cat([_pick_rows(values, start_of_row), own_values], -2)
            layers.append((all_keys, all_values))
        return replace(self, layers=tuple(layers), shared=None)

    def frozen(self, blocks: int) -> Cache:
        """Return a cache of ``blocks`` layers that gives the prefix and the new tokens, and stores only the prefix."""
        layers = list[_PrefixLayer]()
        if self.shared is None:
            layers += [_FrozenLayer() for _ in range(blocks)]
        else:
            starts, start_of_row = self.shared
            for keys, values in starts.layers:  # of each block
                layers.append(_FrozenLayer(start=_StartOfRows(keys, values, start_of_row.to(keys.device))))
        return self._fill(layers, stores=False)

    def growing(self, blocks: int, *, room: int = 0) -> SummedCache:
        """Return a cache that begins with the prefix and stores new tokens, ``room`` of them in preallocated memory."""
        if room:
            layers: list[_PrefixLayer] = [_RoomyLayer(room) for _ in range(blocks)]
        else:
            layers = [_PrefixLayer() for _ in range(blocks)]  # type: ignore[no-untyped-call]
        return self.expand()._fill(layers, stores=True)

    def _fill(self, layers: Sequence[_PrefixLayer], *, stores: bool) -> SummedCache:
        """Return a cache of ``layers``, which begin with the prefix; ``stores``: whether it stores new sums."""
        for layer, (keys, values) in zip(layers, self.layers, strict=False):  # a prefix without tokens has no layers
            layer.begin_with(keys, values)
        return SummedCache(list(layers), self.sums, stores=stores)


def _pick_rows(states: Tensor, index: Tensor) -> Tensor:
    return states[index.to(states.device)]  # the blocks may be on different devices


def empty_prefix(model: LanguageModel, row_count: int) -> Prefix:
    """Return a prefix of ``row_count`` rows without tokens."""
    return Prefix(mask=torch.ones(row_count, 0, dtype=torch.long, device=model.device), layers=())


def stack_prefixes(prefixes: Sequence[Prefix]) -> Prefix:
    """Join prefixes to one with the rows of all; shorter ones are padded on the left.

    All must have ``sums`` of the same names.
    """
    width = max(prefix.mask.shape[-1] for prefix in prefixes)
    expanded = [prefix.expand() for prefix in prefixes]
    with_layers = [prefix for prefix in expanded if prefix.layers]

    filled = list[Prefix]()
    for prefix in expanded:
        if with_layers and not prefix.layers:
            prefix = _with_empty_layers(prefix, with_layers[0])
        filled.append(prefix)

    layers = []
    for number in range(len(filled[0].layers)):
        same_layer = [prefix.layers[number] for prefix in filled]  # [rows, heads, length, head size] both
        keys = torch.cat([_pad(own_keys, width, -2) for own_keys, _ in same_layer])
        values = torch.cat([_pad(own_values, width, -2) for _, own_values in same_layer])
        layers.append((keys, values))
    mask = torch.cat([_pad(prefix.mask, width, -1) for prefix in filled])
    sums = {}
    for name in filled[0].sums:
        sums[name] = torch.cat([prefix.sums[name] for prefix in filled])
    return Prefix(mask=mask, layers=tuple(layers), sums=sums)


def _with_empty_layers(prefix: Prefix, other: Prefix) -> Prefix:
    """Return a prefix without tokens, with layers [rows, heads, 0, head size] of the form of those of ``other``."""
    row_count = len(prefix.mask)
    layers = []
    for keys, values in other.layers:  # [rows, heads, length, head size] both
        no_keys = keys.new_empty(row_count, keys.shape[1], 0, keys.shape[3])
        no_values = values.new_empty(row_count, values.shape[1], 0, values.shape[3])
        layers.append((no_keys, no_values))
    return replace(prefix, layers=tuple(layers))


def _pad(state: Tensor, width: int, dim: int) -> Tensor:
    """Return a state with zeros in front along ``dim``, up to the length ``width``."""
    shape = list(state.shape)
    shape[dim] = width - shape[dim]
    return torch.cat([state.new_zeros(shape), state], dim)


def base_model(model: LanguageModel) -> torch.nn.Module:
    """Return the transformer without its head: token ids -> hidden states [rows, length, d]."""
    base: torch.nn.Module = model.model.base_model
    return base


class _PrefixLayer(DynamicLayer):
    """A cache layer that begins with given keys and values."""

    def begin_with(self, keys: Tensor, values: Tensor) -> None:
        """Begin with ``keys`` and ``values`` [rows, heads, length, head size], which are not copied."""
        self.lazy_initialization(keys, values)
        self.keys = keys
        self.values = values


class _RoomyLayer(_PrefixLayer):
    """A `_PrefixLayer` with room for ``room`` tokens after the first ones, which are written in place.

    As long as the room lasts, ``keys`` and ``values`` are the beginning of a buffer each:

        keys = buffer[..., :length, :]

    Later there are no buffers, and the layer grows like any other, by copying.
    """

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._room = room
        self._buffers: tuple[Tensor, Tensor] | None = None  # of keys and of values

    def begin_with(self, keys: Tensor, values: Tensor) -> None:
        """Begin with a copy of ``keys`` and ``values``, with room after them."""
        super().begin_with(keys, values)
        self._set_buffers(self._allocate(keys), self._allocate(values), length=keys.shape[-2])

    def _allocate(self, states: Tensor) -> Tensor:
        """Return a buffer that begins with a copy of ``states`` [rows, heads, length, head size]."""
        rows, heads, length, size = states.shape
        buffer = states.new_empty(rows, heads, length + self._room, size)
        buffer[..., :length, :] = states
        return buffer

    def _set_buffers(self, keys: Tensor, values: Tensor, *, length: int) -> None:
        """Use these buffers, of which the first ``length`` columns are written."""
        self._buffers = (keys, values)
        self.keys = keys[..., :length, :]
        self.values = values[..., :length, :]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:  # the prefix has no tokens, so these are the prompt: the room comes after it
            self.begin_with(key_states, value_states)
        elif self._has_room(key_states.shape[-2]):
            self._write(key_states, value_states)
        else:
            self._buffers = None
            super().update(key_states, value_states, *args, **kwargs)
        assert self.keys is not None and self.values is not None  # noqa: S101 - set in each case
        return self.keys, self.values

    def _has_room(self, tokens: int) -> bool:
        """Return whether so many more tokens fit in the buffers."""
        if self._buffers is None:
            return False
        return self.get_seq_length() + tokens <= self._buffers[0].shape[-2]

    def _write(self, new_keys: Tensor, new_values: Tensor) -> None:
        """Write keys and values in place, after those that are there."""
        assert self._buffers is not None  # noqa: S101 - by `_has_room`
        keys, values = self._buffers
        length = self.get_seq_length()
        end = length + new_keys.shape[-2]
        keys[..., length:end, :] = new_keys
        values[..., length:end, :] = new_values
        self._set_buffers(keys, values, length=end)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the rows ``indices``, with their room."""
        if self._buffers is None:
            super().batch_select_indices(indices)
            return
        keys, values = self._buffers
        self._set_buffers(_pick_rows(keys, indices), _pick_rows(values, indices), length=self.get_seq_length())

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take the rows ``beam_idx``, as a beam search does, and give up the room."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._buffers = None

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row ``repeats`` times, and give up the room."""
        super().batch_repeat_interleave(repeats)
        self._buffers = None


class _StartOfRows(NamedTuple):
    """One block's keys and values of a `SharedStart`, [starts, heads, length, head size], and each row's start."""

    keys: Tensor
    values: Tensor
    start_of_row: Tensor


class _FrozenLayer(_PrefixLayer):
    """A `_PrefixLayer` that returns its own keys and values and the new tokens', but does not store the new ones.

    The keys and values of ``start`` come before the layer's own.
    """

    def __init__(self, *, start: _StartOfRows | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._start = start

    def get_seq_length(self) -> int:
        """Return the number of tokens before the new ones."""
        own = super().get_seq_length()
        if self._start is None:
            return own
        return own + self._start.keys.shape[-2]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            return key_states, value_states
        assert self.keys is not None and self.values is not None  # noqa: S101 - initialised
        keys = [self.keys, key_states]
        values = [self.values, value_states]
        if self._start is not None:
            start_of_row = self._start.start_of_row
            keys = [self._start.keys[start_of_row], *keys]
            values = [self._start.values[start_of_row], *values]
        return torch.cat(keys, -2), torch.cat(values, -2)


def mask_decides(model: LanguageModel, longest: int) -> bool:
    """Return whether mask and position ids alone decide which token attends to which, for up to ``longest`` tokens.

    It returns False for recurrent blocks, for ALiBi, which counts positions in the row, and for a sliding window that
    is shorter than the text (GPT-Neo: ``window_size``).
    """
    config = model.text_config
    counts_positions = getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt")
    if counts_positions or model.is_recurrent:
        return False
    if config._attn_implementation not in ("eager", "sdpa"):
        return False
    window = getattr(config, "sliding_window", None) or getattr(config, "window_size", None)
    return not window or longest <= window


def quick_backward(hidden: Tensor) -> AbstractContextManager[None]:
    """Use plain attention for bfloat16 on a CPU, where the fused kernel's backward pass takes several times as long."""
    if hidden.device.type == "cpu" and hidden.dtype == torch.bfloat16:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()

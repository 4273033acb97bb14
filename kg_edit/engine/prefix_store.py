"""A store of the keys and values of texts with which the prompts of many edits begin.

The text before a subject ("Q: What is the capital of Japan? A: Tokyo. Q: What is the capital of the country of") is the
same for all edits of a relation. `PrefixStore` computes its keys and values once for each state of the model, and finds
them again by the name of that state. `model_state` returns another name as soon as a patch or a hook changes what the
model computes. `quick_state` takes less than a millisecond, for a store that is asked before each answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

import torch

from kg_edit.engine.prefix_cache import Prefix, SharedContexts, empty_prefix, run_prefix, stack_prefixes
from kg_edit.models.architectures import content_fingerprint
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt

Ids = tuple[int, ...]  # a row of tokens
MEGABYTES = 512.0
"""The default size limit of a store, in MiB."""


def model_state(model: LanguageModel) -> str:
    """Identify the state of the model: a text of its weights (`content_fingerprint`), dtype and hooks.

    A copy with the same weights has the same state. Hooks, as adapters use them, are identified only by their number,
    which is unique in a process.
    """
    return f"{content_fingerprint(model.model)} {model.model.dtype} {_list_hooks(model)}"


def quick_state(model: LanguageModel) -> str:
    """Identify the state of the model as `model_state` does, but by where its weights are and how often they changed.

    A copy with the same weights has another state. A weight that was changed by way of ``.data`` is not noticed.
    """
    weights = []
    for weight in model.model.parameters():
        version = 0 if weight.is_inference() else weight._version
        weights.append((weight.data_ptr(), version))
    return f"{hash(tuple(weights))} {_list_hooks(model)}"


def _list_hooks(model: LanguageModel) -> list[int]:
    """Return the numbers of all hooks of a model."""
    hooks = list[int]()
    for module in model.model.modules():
        hooks += module._forward_hooks.keys()
        hooks += module._forward_pre_hooks.keys()
    return sorted(hooks)


class PrefixStore:
    """Stored prefixes, one for each row of tokens and state of the model; together at most ``megabytes``.

    The least recently used prefixes are removed first. ``find_state`` is `model_state` or `quick_state`.
    """

    def __init__(
        self, *, megabytes: float = MEGABYTES, find_state: Callable[[LanguageModel], str] = model_state
    ) -> None:
        self._find_state = find_state
        self._prefixes: OrderedDict[tuple[str, Ids], Prefix] = OrderedDict()  # the least recently used one is the first
        self._limit = megabytes * 2**20  # bytes
        self._size = 0  # bytes

    def find_contexts(self, model: LanguageModel, starts: Iterable[Ids]) -> SharedContexts:
        """Return the keys and values of the rows ``starts``; those that are not stored are computed in one batch."""
        rows = list(dict.fromkeys(starts))  # each once
        state = self._find_state(model)
        missing = [row for row in rows if row and (state, row) not in self._prefixes]
        if missing:
            computed = run_prefix(model, missing)
            if computed.sums:
                # A patch of this model sums over tokens. The store has keys and values only, so it can't be used, and
                # the batch that has just run is thrown away: `of_starts` runs all rows again and keeps their sums.
                return SharedContexts.of_starts(model, rows)
            self._add(state, missing, computed)
        prefixes = [self._look_up(model, state, row) for row in rows]
        self._remove_oldest()  # after the look-up, as the rows of this call may be more than the store can keep
        return SharedContexts(rows, stack_prefixes(prefixes))

    def find(self, model: LanguageModel, start: Ids) -> SharedContexts | None:
        """Return the keys and values of one row; None if they are not stored."""
        state = self._find_state(model)
        if (state, start) not in self._prefixes:
            return None
        return SharedContexts([start], self._look_up(model, state, start))

    def keep(self, model: LanguageModel, start: Ids, read: Prefix) -> None:
        """Store the keys and values of a row's tokens ``start``, which were ``read`` with the tokens after them.

        Nothing is stored if the model sums over tokens, or if the row is stored already.
        """
        state = self._find_state(model)
        if read.sums or (state, start) in self._prefixes:
            return
        layers = []
        for keys, values in read.layers:  # [1, heads, tokens, head size] both
            layers.append((keys[..., : len(start), :], values[..., : len(start), :]))
        self._add(state, [start], Prefix(mask=read.mask[:, : len(start)], layers=tuple(layers)))
        self._remove_oldest()

    def _add(self, state: str, rows: Sequence[Ids], batch: Prefix) -> None:
        """Store each row of ``batch``, the prefix of the token rows ``rows``."""
        for number, row in enumerate(rows):
            prefix = _copy_row(batch, number, length=len(row))
            self._prefixes[state, row] = prefix
            self._size += _bytes_of(prefix)

    def _look_up(self, model: LanguageModel, state: str, row: Ids) -> Prefix:
        """Return the stored prefix of a token row and mark it as used last; a row without tokens is not stored."""
        if not row:
            return empty_prefix(model, 1)
        self._prefixes.move_to_end((state, row))
        return self._prefixes[state, row]

    def _remove_oldest(self) -> None:
        """Remove the least recently used prefixes until the rest is within the limit."""
        while self._size > self._limit:
            _, removed = self._prefixes.popitem(last=False)
            self._size -= _bytes_of(removed)


@runtime_checkable
class KnowsStarts(Protocol):
    """A ``prompt_transform`` whose prompts often begin alike; ``start_store`` has the keys and values of the starts."""

    start_store: PrefixStore

    def count_shared(self, model: LanguageModel, prompt: Prompt) -> int:
        """Return with how many of a prompt's first tokens other prompts may begin, too."""


def _copy_row(batch: Prefix, number: int, *, length: int) -> Prefix:
    """Return one row of ``batch`` without its padding, copied: a view would keep the memory of the whole batch."""
    row = batch.select_rows(torch.tensor([number], device=batch.mask.device))
    layers = []
    for keys, values in row.layers:  # [1, heads, padding + length, head size] both
        layers.append((keys[..., -length:, :].clone(), values[..., -length:, :].clone()))
    return Prefix(mask=row.mask[:, -length:], layers=tuple(layers))


def _bytes_of(prefix: Prefix) -> int:
    """Return the bytes of a prefix's keys and values."""
    size = 0
    for keys, values in prefix.layers:
        size += keys.nbytes + values.nbytes
    return size

"""A store of prefix keys and values that the prompts of many edits share, valid as long as the model does not change.

The text before a subject ("Q: What is the capital of Japan? A: Tokyo. Q: What is the capital of the country of") is the
same for all edits of a relation. `PrefixStore` computes its keys and values once. `model_state` shows whether the model
still computes the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch

from kg_edit.engine.prefix_cache import Prefix, SharedContexts, empty_prefix, run_prefix, stack_prefixes
from kg_edit.models.architectures import content_fingerprint
from kg_edit.models.language_model import LanguageModel

Ids = tuple[int, ...]
MEGABYTES = 512.0
"""The default size limit of a store, in MiB."""


def model_state(model: LanguageModel) -> str:
    """Identify the state of the model: a text of its weights (`content_fingerprint`), dtype and hooks.

    A copy with the same weights has the same state. Hooks, as adapters use them, are identified only by their number,
    which is unique in a process.
    """
    hooks = list[int]()
    for module in model.model.modules():
        hooks += module._forward_hooks
        hooks += module._forward_pre_hooks
    return f"{content_fingerprint(model.model)} {model.model.dtype} {sorted(hooks)}"


class PrefixStore:
    """Prefixes of single token rows by model state, at most ``megabytes`` of them.

    The least recently used prefixes are removed first.
    """

    def __init__(self, *, megabytes: float = MEGABYTES) -> None:
        self._held: OrderedDict[tuple[str, Ids], Prefix] = OrderedDict()
        self._limit = megabytes * 2**20
        self._size = 0

    def contexts(self, model: LanguageModel, starts: Iterable[Ids]) -> SharedContexts:
        """Return the keys and values of ``starts``; missing ones are computed in one batch."""
        rows = list(dict.fromkeys(starts))
        state = model_state(model)
        missing = [ids for ids in rows if ids and (state, ids) not in self._held]
        if missing:
            computed = run_prefix(model, missing)
            if computed.sums:
                # A patch of this model sums over tokens. The store has keys and values only, so it can't be used, and
                # the batch that has just run is thrown away: `of_starts` runs all rows again and keeps their sums.
                return SharedContexts.of_starts(model, rows)
            self._store(state, missing, computed)
        prefixes = [self._look_up(model, state, ids) for ids in rows]
        self._remove_oldest()
        return SharedContexts(rows, stack_prefixes(prefixes))

    def _store(self, state: str, rows: Sequence[Ids], batch: Prefix) -> None:
        """Store each row of ``batch``, the prefix of the token rows ``rows``."""
        for number, ids in enumerate(rows):
            prefix = _copy_row(batch, number, length=len(ids))
            self._held[state, ids] = prefix
            self._size += _bytes_of(prefix)

    def _look_up(self, model: LanguageModel, state: str, ids: Ids) -> Prefix:
        """Return the stored prefix of a token row and mark it as used last; a row without tokens is not stored."""
        if not ids:
            return empty_prefix(model, 1)
        self._held.move_to_end((state, ids))
        return self._held[state, ids]

    def _remove_oldest(self) -> None:
        """Remove the least recently used prefixes until the rest is within the limit."""
        while self._size > self._limit:
            _, removed = self._held.popitem(last=False)
            self._size -= _bytes_of(removed)


def _copy_row(batch: Prefix, number: int, *, length: int) -> Prefix:
    """Return one row of ``batch`` without its padding, copied: a view would keep the memory of the whole batch."""
    row = batch.rows(torch.tensor([number], device=batch.mask.device))
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

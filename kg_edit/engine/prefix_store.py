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
        ids = list(dict.fromkeys(starts))
        state = model_state(model)
        missing = [row for row in ids if row and (state, row) not in self._held]
        computed = run_prefix(model, missing) if missing else empty_prefix(model, 0)
        if computed.sums:  # a patch sums over tokens; prefixes stored by other calls may lack these sums
            return SharedContexts(model, ids)
        for number, ids_ in enumerate(missing):
            # One row, without its padding, as tensors of its own: a view would reference the whole batch.
            row = computed.rows(torch.tensor([number], device=computed.mask.device))
            length = len(ids_)
            layers = []
            for keys, values in row.layers:
                layers.append((keys[..., -length:, :].clone(), values[..., -length:, :].clone()))
            prefix = Prefix(mask=row.mask[:, -length:], layers=tuple(layers))
            self._held[state, ids_] = prefix
            self._size += _bytes_of(prefix)
        prefixes = []
        for row_ids in ids:
            if not row_ids:
                prefixes.append(empty_prefix(model, 1))
                continue
            self._held.move_to_end((state, row_ids))  # least recently used first
            prefixes.append(self._held[state, row_ids])
        while self._size > self._limit:
            _, gone = self._held.popitem(last=False)
            self._size -= _bytes_of(gone)
        return SharedContexts.of_prefix(ids, stack_prefixes(prefixes))


def _bytes_of(prefix: Prefix) -> int:
    states: Sequence[torch.Tensor] = [state for layer in prefix.layers for state in layer]
    return sum(state.numel() * state.element_size() for state in states)

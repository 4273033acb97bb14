"""Caches that store, beside keys and values, the sums of a patch that averages over the tokens of a text.

Such a patch needs the mean of a module's inputs x [d] over all tokens so far. With a cache, a call of the model sees
only the new tokens. So the cache keeps, for each row, the sum of the earlier tokens' (x, 1), [d + 1]: its last
component is their number. `kg_edit.zoo.token_means` writes the sums, under a name for each module, and reads them in
the next call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from kg_edit.errors import PatchError


class CacheSums:
    """Mixin for a cache that also has ``token_sums``: by name, the sums [rows, d + 1] of the tokens in the cache.

    What changes the rows of the cache changes the rows of the sums, too. ``stores_sums``: whether the sums of new
    tokens are stored. A frozen cache (`kg_edit.engine.prefix_cache.Prefix.frozen`) stores no new tokens, so it stores
    no sums of them either.
    """

    token_sums: dict[str, Tensor]
    stores_sums: bool = True

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take the rows ``beam_idx``, as a beam search does."""
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self._take(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep only the rows ``indices``."""
        super().batch_select_indices(indices)  # type: ignore[misc]
        self._take(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row ``repeats`` times."""
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        self.token_sums = {name: sums.repeat_interleave(repeats, 0) for name, sums in self.token_sums.items()}

    def reset(self) -> None:
        """Forget all tokens."""
        super().reset()  # type: ignore[misc]
        self.token_sums = {}

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse: the sums of fewer tokens are not known."""
        raise PatchError(
            "this patch sums up a text, so tokens can't be removed from the cache; generate without an assistant model "
            "and without prompt_lookup_num_tokens, or with use_cache=False"
        )

    def _take(self, rows: Tensor) -> None:
        """Keep the sums of ``rows``, in this order."""
        self.token_sums = {name: sums[rows.to(sums.device)] for name, sums in self.token_sums.items()}


class SummedCache(CacheSums, Cache):
    """A cache that begins with given layers and sums."""

    def __init__(self, layers: list[Any], sums: Mapping[str, Tensor], *, stores: bool) -> None:
        super().__init__(layers=layers)
        self.token_sums = dict(sums)
        self.stores_sums = stores


def let_store_sums(cache: Cache) -> CacheSums:
    """Let a cache of transformers store sums, too; return the same object.

    A loop that generates text has made the cache and holds it, so no other object can take its place. Instead, the
    class of the object is replaced by one with the methods of `CacheSums`. A `DynamicCache` gets this class:

        class SummedDynamicCache(CacheSums, DynamicCache): ...
    """
    if isinstance(cache, CacheSums):
        return cache
    own_class = type(cache)
    cache.__class__ = type(f"Summed{own_class.__name__}", (CacheSums, own_class), {})
    assert isinstance(cache, CacheSums)  # noqa: S101 - by its new class
    cache.token_sums = {}
    return cache

"""A cache with room for new tokens holds what one without room holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kg_edit.engine.cache_sums import SummedCache
from kg_edit.engine.prefix_cache import Prefix

ROOM = 2
CHANGES: dict[str, Callable[[SummedCache], None]] = {
    "select": lambda cache: cache.batch_select_indices(torch.tensor([2, 0])),
    "reorder": lambda cache: cache.reorder_cache(torch.tensor([1, 1, 0])),
    "repeat": lambda cache: cache.batch_repeat_interleave(2),
    "none": lambda cache: None,
}


def write(cache: SummedCache, seed: int) -> tuple[Tensor, Tensor]:
    """Write one token into each row, and return all keys and values."""
    layers: list[Any] = list(cache.layers)
    rows = 3 if layers[0].keys is None else len(layers[0].keys)
    new_keys, new_values = torch.randn(2, rows, 1, 1, 4, generator=torch.Generator().manual_seed(seed))
    keys, values = cache.update(new_keys, new_values, 0)
    return keys, values


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("tokens_before", [1, ROOM, ROOM + 1])
@pytest.mark.parametrize("prefix_tokens", [0, 3])
def test_rows_change_before_and_after_the_room_is_used_up(change: str, tokens_before: int, prefix_tokens: int) -> None:
    states = torch.randn(2, 3, 1, prefix_tokens, 4, generator=torch.Generator().manual_seed(0))
    layers = ((states[0], states[1]),) if prefix_tokens else ()
    prefix = Prefix(mask=torch.ones(3, prefix_tokens, dtype=torch.long), layers=layers)
    roomy = prefix.growing(1, room=ROOM)
    plain = prefix.growing(1)

    for token in range(tokens_before):
        write(roomy, token)
        write(plain, token)
    CHANGES[change](roomy)
    CHANGES[change](plain)
    for token in range(10, 10 + ROOM + 1):
        torch.testing.assert_close(write(roomy, token), write(plain, token), rtol=0, atol=0)

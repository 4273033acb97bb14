"""The keys (inputs of the down-projection) of several layers in one forward, which goes no further than it must."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kg_edit.hooks import StopForwardError, stopping
from kg_edit.language_model import LanguageModel
from kg_edit.prompts import left_pad

See = Callable[[int, Tensor], None]
"""Called with a layer and its keys [tokens, d_ff]."""

_BATCH_TOKENS = 2048


@contextmanager
def keys_seen(model: LanguageModel, layers: Sequence[int], see: See) -> Iterator[None]:
    """Call ``see`` with each of ``layers`` and the input of its down-projection whenever that is about to run."""

    def watcher(layer: int) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, args: see(layer, args[0])

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(model.down_projection(layer).register_forward_pre_hook(watcher(layer)).remove)
        yield


@torch.no_grad()
def keys_of_rows(model: LanguageModel, layers: Sequence[int], rows: Sequence[Sequence[int]], see: See) -> None:
    """Show ``see`` the keys of token rows, sorted by length so that next to nothing is padded.

    The forward ends at the highest layer's down-projection: the layers above, and the head, are not run.
    """
    for batch in _batches(sorted((row for row in rows if row), key=len), _BATCH_TOKENS):
        _keys_of_batch(model, layers, batch, see)


def _keys_of_batch(model: LanguageModel, layers: Sequence[int], rows: Sequence[Sequence[int]], see: See) -> None:
    batch = left_pad(rows, device=model.device)
    real = None if batch.mask.all() else batch.mask.bool().reshape(-1)

    def catch(layer: int, key: Tensor) -> None:
        flat = key.reshape(-1, key.shape[-1])
        see(layer, flat if real is None else flat[real.to(flat.device)])
        if layer == max(layers):
            raise StopForwardError

    with keys_seen(model, layers, catch), stopping():
        model.model.base_model(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            use_cache=False,
        )


def _batches(rows: Sequence[Sequence[int]], budget: int) -> Iterator[list[Sequence[int]]]:
    """Runs of rows, sorted by length, whose padded size stays within ``budget`` tokens."""
    batch: list[Sequence[int]] = []
    for row in rows:
        if batch and (len(batch) + 1) * len(row) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch

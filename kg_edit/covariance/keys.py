"""The keys (inputs of the down-projection) of several layers in one forward, which goes no further than it must."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kg_edit.covariances.batches import Row, TokenBatch, pack, packed_batches, padded_batches
from kg_edit.models.hooks import StopForwardError, stopping
from kg_edit.models.language_model import LanguageModel

See = Callable[[int, Tensor], None]
"""Called with a layer and its keys [tokens, d_ff]."""


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
def keys_of_rows(
    model: LanguageModel, layers: Sequence[int], rows: Sequence[Row], see: See, *, packed: bool = False
) -> None:
    """Show ``see`` the keys of token rows, each a text of its own; ``packed``: next to nothing is padded.

    The forward ends at the highest layer's down-projection: the layers above, and the head, are not run.
    """
    full = [row for row in rows if row]
    batches = packed_batches if packed else padded_batches
    for batch in batches(full, model.device):
        _keys_of_batch(model, layers, batch, see)


@torch.no_grad()
def can_pack(model: LanguageModel) -> bool:
    """Whether texts packed into a row see only themselves: tried on two texts, which takes the time of 48 tokens.

    Position ids that begin anew say so to most families; Falcon and OPT do not read them so.
    """
    size, last = len(model.tokenizer), len(model.blocks) - 1
    texts = [[(start + 7 * place) % size for place in range(12)] for start in (11, 101)]
    found: dict[bool, list[Tensor]] = {True: [], False: []}
    order = [texts, texts[::-1]]
    for bins in (order, [[text] for texts in order for text in texts]):
        width = sum(map(len, bins[0]))
        batch = pack(bins, width, model.device)
        _keys_of_batch(model, [last], batch, lambda _, key, kept=found[bins is order]: kept.append(key))  # type: ignore[misc]
    (together,), (alone,) = found[True], found[False]
    return bool((together - alone).norm() < 0.03 * alone.norm())  # bfloat16 errs by 0.01


def _keys_of_batch(model: LanguageModel, layers: Sequence[int], batch: TokenBatch, see: See) -> None:
    real = None if batch.real.all() else batch.real.reshape(-1)

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

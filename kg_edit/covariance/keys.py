"""The keys k [tokens, d_ff] (inputs of the down-projection) of several layers, in one forward pass over token rows.

`keys_of_rows` runs batches of rows and stops at the highest layer asked for. The rows are packed, several texts to a
row, where position ids keep them apart (`can_pack`), and padded on the left elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kg_edit.models.hooks import StopForwardError, stopping
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import left_pad

BATCH_TOKENS = 2048
TRIED_TOKENS = 96  # in all blocks, to find out whether texts can be packed
_LEAST_TOKENS, _SLACK = 256, 1.05  # a batch of so many tokens ends where more than 5 % would be padding
TokenRow = Sequence[int]

See = Callable[[int, Tensor], None]
"""Called with a layer and its keys [tokens, d_ff]."""


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """Ids, position ids and ``real`` (a token, not filling), each [rows, length].

    ``mask`` is the attention mask; None: texts begin where positions begin anew, and see only themselves.
    """

    ids: Tensor
    positions: Tensor
    real: Tensor
    mask: Tensor | None


@torch.no_grad()
def keys_of_rows(
    model: LanguageModel, layers: Sequence[int], rows: Sequence[TokenRow], see: See, *, packed: bool = False
) -> None:
    """Show ``see`` the keys of token rows, each a text of its own; ``packed``: next to nothing is padded.

    The forward ends at the highest layer's down-projection: the layers above, and the head, are not run.
    """
    full = [row for row in rows if row]
    batches = packed_batches if packed else padded_batches
    for batch in batches(full, model.device):
        _keys_of_batch(model, layers, batch, see)


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


def packed_batches(rows: Sequence[TokenRow], device: torch.device) -> Iterator[TokenBatch]:
    """Texts side by side in rows as long as the longest text."""
    width = max(map(len, rows), default=0)
    bins = _fill(rows, width)
    size = max(1, BATCH_TOKENS // max(1, width))
    for start in range(0, len(bins), size):
        yield pack(bins[start : start + size], width, device)


def pack(bins: Sequence[Sequence[TokenRow]], width: int, device: torch.device) -> TokenBatch:
    """Rows that hold the texts of one bin each; filled up with texts of one token."""
    ids, positions, real = [], [], []
    for texts in bins:
        tokens = [token for text in texts for token in text]
        filling = [0] * (width - len(tokens))
        ids.append(tokens + filling)
        positions.append([place for text in texts for place in range(len(text))] + filling)
        real.append([True] * len(tokens) + [False] * len(filling))
    return TokenBatch(
        ids=torch.tensor(ids, device=device),
        positions=torch.tensor(positions, device=device),
        real=torch.tensor(real, device=device),
        mask=None,
    )


def _fill(rows: Sequence[TokenRow], width: int) -> list[list[TokenRow]]:
    """Put each row, the longest first, into the first bin that still has room for it."""
    bins: list[list[TokenRow]] = []
    room: list[int] = []
    for row in sorted(rows, key=len, reverse=True):
        place = next((place for place, free in enumerate(room) if free >= len(row)), len(bins))
        if place == len(bins):
            bins.append([])
            room.append(width)
        bins[place].append(row)
        room[place] -= len(row)
    return bins


def padded_batches(rows: Sequence[TokenRow], device: torch.device) -> Iterator[TokenBatch]:
    """Texts of like length, a text a row, padded on the left."""
    for group in _alike(sorted(rows, key=len)):
        batch = left_pad(group, device=device)
        yield TokenBatch(ids=batch.ids, positions=batch.positions, real=batch.mask.bool(), mask=batch.mask)


def _alike(rows: Sequence[TokenRow]) -> Iterator[list[TokenRow]]:
    """Runs of rows, sorted by length, of which little is padding."""
    group: list[TokenRow] = []
    tokens = 0
    for row in rows:
        padded = (len(group) + 1) * len(row)
        wasteful = tokens >= _LEAST_TOKENS and padded > _SLACK * (tokens + len(row))
        if group and (padded > BATCH_TOKENS or wasteful):
            yield group
            group, tokens = [], 0
        group.append(row)
        tokens += len(row)
    if group:
        yield group

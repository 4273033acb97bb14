"""Rows of tokens as batches: packed, several texts to a row, or padded where a model can't keep them apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kg_edit.models.prompts import left_pad

_BATCH_TOKENS = 2048
_LEAST_TOKENS, _SLACK = 256, 1.05  # a batch of so many tokens ends where more than 5 % would be padding

Row = Sequence[int]


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """Ids, position ids and ``real`` (a token, not filling), each [rows, length].

    ``mask`` is the attention mask; None: texts begin where positions begin anew, and see only themselves.
    """

    ids: Tensor
    positions: Tensor
    real: Tensor
    mask: Tensor | None


def packed_batches(rows: Sequence[Row], device: torch.device) -> Iterator[TokenBatch]:
    """Texts side by side in rows as long as the longest text."""
    width = max(map(len, rows), default=0)
    bins = _fill(rows, width)
    size = max(1, _BATCH_TOKENS // max(1, width))
    for start in range(0, len(bins), size):
        yield pack(bins[start : start + size], width, device)


def padded_batches(rows: Sequence[Row], device: torch.device) -> Iterator[TokenBatch]:
    """Texts of like length, a text a row, padded on the left."""
    for group in _alike(sorted(rows, key=len)):
        batch = left_pad(group, device=device)
        yield TokenBatch(ids=batch.ids, positions=batch.positions, real=batch.mask.bool(), mask=batch.mask)


def pack(bins: Sequence[Sequence[Row]], width: int, device: torch.device) -> TokenBatch:
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


def _fill(rows: Sequence[Row], width: int) -> list[list[Row]]:
    """Put each row, the longest first, into the first bin that still has room for it."""
    bins: list[list[Row]] = []
    room: list[int] = []
    for row in sorted(rows, key=len, reverse=True):
        place = next((place for place, free in enumerate(room) if free >= len(row)), len(bins))
        if place == len(bins):
            bins.append([])
            room.append(width)
        bins[place].append(row)
        room[place] -= len(row)
    return bins


def _alike(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Runs of rows, sorted by length, of which little is padding."""
    group: list[Row] = []
    tokens = 0
    for row in rows:
        padded = (len(group) + 1) * len(row)
        wasteful = tokens >= _LEAST_TOKENS and padded > _SLACK * (tokens + len(row))
        if group and (padded > _BATCH_TOKENS or wasteful):
            yield group
            group, tokens = [], 0
        group.append(row)
        tokens += len(row)
    if group:
        yield group

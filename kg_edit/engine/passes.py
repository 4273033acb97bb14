"""How the rows of a step are put into forward passes. The device of the model decides.

- On a CPU a pass has few tokens, so that they stay in its caches, and rows of unlike length share one only if the
  padding costs less than another pass.
- On an accelerator all rows of a step share one padded pass: a pass of few tokens takes as long as reading the weights
  and starting the kernels. Tokens beyond those that keep its products busy would only take memory.

The memory is that of ``--memory``, and of an accelerator half of what it says is free. If it runs out nevertheless,
the passes get half of the tokens, for the rest of the descent (`kg_edit.engine.fast_loss.FastLoss`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Any, Protocol, TypeVar

from kg_edit.models.devices import pass_megabytes
from kg_edit.models.language_model import LanguageModel, matrix_shape

_FEWEST = 32  # tokens of a pass, however little memory there is
_CPU_MOST = 512  # tokens; larger passes are no faster on a CPU, and no longer fit into its caches
_CPU_PASS = 32  # fixed cost of a pass, in tokens; measured: 36 on one thread of a processor
# By the bytes of a number: tokens with which reading the weights takes less than a tenth of a pass on an H100
_BUSY_TOKENS = {2: 4096, 4: 512}
_ALWAYS_ALLOWED = 2e9  # bytes of a pass on an accelerator: in a small model starting the kernels takes longest


class Row(Protocol):
    """A row of a pass: its ``length`` in tokens; rows of one ``kind`` stand together."""

    @property
    def length(self) -> int:
        """The number of tokens."""

    @property
    def kind(self) -> Any:
        """What the rows are ordered by."""


R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class PassLimit:
    """The most ``tokens`` of a pass, padding included; up to ``padding`` tokens of padding cost less than a pass."""

    tokens: float
    padding: float = _CPU_PASS


def pass_limit(model: LanguageModel, layer: int, megabytes: float = inf) -> PassLimit:
    """Return the limit of passes with gradient from block ``layer`` on, on the device of ``model``.

    Args:
        model: the language model.
        layer: the lowest block with a gradient, 0-based.
        megabytes: the memory that a pass may take, besides the model itself.
    """
    inner = matrix_shape(model.down_projection(layer))[1]
    vocabulary = model.model.get_output_embeddings().weight.shape[0]
    numbers = count_numbers(model.width, inner, blocks=len(model.blocks) - layer, vocabulary=vocabulary)
    free = pass_megabytes(model.device)
    if free is not None:
        megabytes = min(megabytes, free)
    cpu = model.device.type == "cpu"
    tokens = tokens_at_once(numbers, number_bytes=model.model.dtype.itemsize, memory_bytes=1e6 * megabytes, cpu=cpu)
    padding = _CPU_PASS if cpu else inf
    return PassLimit(tokens, padding=padding)


def tokens_at_once(numbers: float, *, number_bytes: int, memory_bytes: float, cpu: bool) -> float:
    """Return the number of tokens of a pass that keep the device busy and fit into ``memory_bytes``, at least 32.

    Args:
        numbers: how many numbers a token keeps (`count_numbers`).
        number_bytes: the bytes of a number.
        memory_bytes: the memory that a pass may take.
        cpu: whether the device is the CPU, where 512 tokens fit into the caches.
    """
    token_bytes = number_bytes * numbers
    busy: float = _CPU_MOST
    if not cpu:
        busy = max(_BUSY_TOKENS.get(number_bytes, _BUSY_TOKENS[4]), _ALWAYS_ALLOWED / token_bytes)
    return max(_FEWEST, min(busy, memory_bytes / token_bytes))


def count_numbers(width: int, inner: int, *, blocks: int, vocabulary: int) -> int:
    """Return how many numbers a token keeps for the backward pass: 10 d + 5 d_ff a block, and its logits (measured)."""
    return (10 * width + 5 * inner) * blocks + vocabulary


def group_into_passes(rows: Sequence[R], limit: PassLimit) -> Iterator[list[R]]:
    """Group the rows into passes within ``limit``; a row that alone has more tokens has a pass of its own."""
    by_length: dict[int, list[R]] = {}
    for row in rows:
        by_length.setdefault(row.length, []).append(row)
    group = list[R]()
    width = 0  # the length of the longest row in the group
    for length, same_length in sorted(by_length.items()):
        fits = (len(group) + len(same_length)) * length <= limit.tokens
        padding = len(group) * (length - width)
        if group and (not fits or padding > limit.padding):
            yield from _split(group, width, limit.tokens)
            group = []
        group = [*group, *same_length]
        width = length
    if group:
        yield from _split(group, width, limit.tokens)


def _split(rows: Sequence[R], width: int, tokens: float) -> Iterator[list[R]]:
    """Split rows of up to ``width`` tokens into parts of nearly equal size, each of at most ``tokens``.

    Each part is ordered by kind of row. A row that alone has more tokens is a part.
    """
    rows_within = len(rows)
    if len(rows) * width > tokens:
        rows_within = max(1, int(tokens // width))
    parts = ceil(len(rows) / rows_within)
    size = ceil(len(rows) / parts)
    order = sorted(rows, key=lambda row: row.kind)
    for start in range(0, len(order), size):
        yield order[start : start + size]


def padded_tokens(rows: Sequence[Row]) -> int:
    """Return the number of tokens of a pass of these rows, padding included."""
    return len(rows) * max(row.length for row in rows)

"""The hidden states below a block, computed once for many rows of tokens.

A training that only changes blocks from ``first`` on runs the same rows again and again through the same lower blocks.
`lower_states` computes the input [tokens, d] of block ``first`` for each row, once. While a `LowerStates` is
`replayed`, the lower blocks return their input unchanged, and block ``first`` gets the stored states.

A row's states do not depend on the batch in which the row is used: rows of equal length are computed together, in a
fixed order, without padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from kg_common.json_text import digest
from kg_common.progress import Bar
from kg_edit.engine.replay import block_output
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import left_pad, split_passes
from kg_edit.storage.atomic import write_safetensors

Row = tuple[int, ...]
# The most rows of equal length in one pass, and the most tokens
_ROWS = 32
_TOKENS = 8192


@dataclass(frozen=True, eq=False, kw_only=True)
class LowerStates:
    """The input of block ``first`` for each row: ``starts`` has a row's first index in ``states`` [all tokens, d].

    ``outputs``: the length of the tuple that a block returns, or 0 if it returns the hidden state alone.
    """

    model: LanguageModel
    first: int
    starts: dict[Row, int]
    states: Tensor
    outputs: int

    @contextmanager
    def replayed(self, rows: Sequence[Row], length: int) -> Iterator[None]:
        """Within the ``with`` block, a pass of ``rows``, left-padded to ``length``, starts at block ``first``.

        Its inputs there are the stored states. Rows that are not stored are run as usual.
        """
        if not all(row in self.starts for row in rows):
            yield
            return
        state = self.states.new_zeros(len(rows), length, self.states.shape[-1])  # [rows, length, d]; 0 at padding
        for number, row in enumerate(rows):
            start = self.starts[row]
            state[number, length - len(row) :] = self.states[start : start + len(row)]
        with ExitStack() as stack:
            for layer in range(self.first):
                stack.enter_context(_skipped(self.model.block(layer), self.outputs))
            stack.enter_context(_fed_with(self.model.block(self.first), state))
            yield


@torch.no_grad()
def lower_states(
    model: LanguageModel, rows: Iterable[Row], first: int, file: Path, *, progress: bool = False
) -> LowerStates:
    """Read the input of block ``first`` for each different row from ``file``, or compute and write it.

    Args:
        model: the model; only its blocks below ``first`` run.
        rows: rows of token ids.
        first: the block (0-based, above 0) at which later passes start.
        file: a safetensors file; a file of other rows is written again.
        progress: whether to show a bar.
    """
    ordered = sorted(set(rows), key=lambda row: (len(row), row))
    starts = dict[Row, int]()
    total = 0
    for row in ordered:
        starts[row] = total
        total += len(row)
    shape = (total, model.width)
    rows_sha256 = digest([first, ordered])
    states = _read(file, shape, rows_sha256)
    if states is None:
        with Bar(title="states of the lower blocks", unit="text", total=len(ordered), shown=progress) as bar:
            computed = _compute(model, ordered, first, bar)
        write_safetensors(file, {"states": computed}, {"rows_sha256": rows_sha256})
        states = _read(file, shape, rows_sha256)  # as a memory map
    assert states is not None  # noqa: S101 - just written
    outputs = _count_outputs(model, ordered[0])
    return LowerStates(model=model, first=first, starts=starts, states=states, outputs=outputs)


def _compute(model: LanguageModel, ordered: Sequence[Row], first: int, bar: Bar) -> Tensor:
    """Return the input of block ``first`` for rows that are ordered by length, one after the other, [all tokens, d]."""
    states = torch.empty(sum(map(len, ordered)), model.width, dtype=model.model.dtype)
    filled = 0
    for length, same_length in groupby(ordered, len):
        group = list(same_length)
        for numbers in split_passes([length] * len(group), rows=_ROWS, tokens=_TOKENS):
            batch = left_pad(group[numbers.start : numbers.stop], device=model.device)  # without padding
            output = block_output(model, batch, first - 1).flatten(0, 1)  # [rows * tokens, d]
            states[filled : filled + len(output)] = output.cpu()
            filled += len(output)
            bar.update(len(batch.ids))
    return states


def _read(file: Path, shape: tuple[int, int], rows_sha256: str) -> Tensor | None:
    """Return the states of a file; None if there is no file, or it is damaged or of other rows."""
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            states: Tensor = opened.get_tensor("states")
    except (OSError, SafetensorError):
        return None
    if metadata.get("rows_sha256") != rows_sha256 or states.shape != shape:
        return None
    return states


def _count_outputs(model: LanguageModel, row: Row) -> int:
    """Return the length of the tuple that a block returns, or 0 if it returns the hidden state alone."""
    seen: list[Any] = []
    batch = left_pad([row], device=model.device)
    with model.block(0).register_forward_hook(lambda _, __, output: seen.append(output)):
        block_output(model, batch, 0)
    return len(seen[0]) if isinstance(seen[0], tuple) else 0


@contextmanager
def _skipped(block: nn.Module, outputs: int) -> Iterator[None]:
    """Within the ``with`` block, ``block`` returns its input; if ``outputs`` is above 0, in a tuple of this length."""

    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        if not outputs:
            return hidden_states
        return (hidden_states, *[None] * (outputs - 1))

    previous = block.__dict__.get("forward")  # accelerate's, if there is one
    block.__dict__["forward"] = forward
    try:
        yield
    finally:
        del block.__dict__["forward"]
        if previous is not None:
            block.__dict__["forward"] = previous


@contextmanager
def _fed_with(block: nn.Module, state: Tensor) -> Iterator[None]:
    """Within the ``with`` block, ``block`` gets ``state`` [rows, tokens, d] instead of its hidden state."""

    def feed(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            original, *others = args
            return (state.to(original.device), *others), kwargs
        original = kwargs["hidden_states"]
        return args, {**kwargs, "hidden_states": state.to(original.device)}

    with block.register_forward_pre_hook(feed, with_kwargs=True):
        yield

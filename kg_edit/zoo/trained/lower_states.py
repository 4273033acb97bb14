"""The hidden states below a block, computed once for many rows of tokens.

A training that only changes blocks from ``first`` on runs the same rows again and again through the same lower blocks.
`LowerStates` has the input [tokens, d] of block ``first`` for each row; while it is `replayed`, the lower blocks let
their input pass, and block ``first`` gets the stored states.

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
# rows of equal length in one pass, and their tokens
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
        """A forward pass of ``rows``, left-padded to ``length``, starts at block ``first``, with the stored states.

        Rows that are not stored are run as usual.
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
                stack.enter_context(_passing(self.model.block(layer), self.outputs))
            stack.enter_context(_entered_by(self.model.block(self.first), state))
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
        # [all tokens, d]
        computed = torch.empty(shape, dtype=model.model.dtype)
        filled = 0
        with Bar(title="states of the lower blocks", unit="text", total=len(ordered), shown=progress) as bar:
            for length, same in groupby(ordered, len):
                group = list(same)
                for numbers in split_passes([length] * len(group), rows=_ROWS, tokens=_TOKENS):
                    batch = left_pad(group[numbers.start : numbers.stop], device=model.device)
                    output = block_output(model, batch, first - 1).flatten(0, 1)  # [rows * tokens, d], no padding
                    computed[filled : filled + len(output)] = output.cpu()
                    filled += len(output)
                    bar.update(len(batch.ids))
        write_safetensors(file, {"states": computed}, {"rows_sha256": rows_sha256})
        states = _read(file, shape, rows_sha256)  # as a memory map
    assert states is not None  # noqa: S101 - just written
    return LowerStates(model=model, first=first, starts=starts, states=states, outputs=_outputs(model, ordered[0]))


def _read(file: Path, shape: tuple[int, int], rows_sha256: str) -> Tensor | None:
    """The states of a file; None if there is no file, or it is damaged or of other rows."""
    try:
        with safe_open(file, framework="pt") as opened:
            same = (opened.metadata() or {}).get("rows_sha256") == rows_sha256
            states: Tensor = opened.get_tensor("states")
    except (OSError, SafetensorError):
        return None
    return states if same and states.shape == shape else None


def _outputs(model: LanguageModel, row: Row) -> int:
    """The length of the tuple that a block returns, or 0 if it returns the hidden state alone."""
    seen: list[Any] = []
    batch = left_pad([row], device=model.device)
    with model.block(0).register_forward_hook(lambda _, __, output: seen.append(output)):
        block_output(model, batch, 0)
    return len(seen[0]) if isinstance(seen[0], tuple) else 0


@contextmanager
def _passing(block: nn.Module, outputs: int) -> Iterator[None]:
    """Let ``block`` return its input."""

    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        return (hidden_states, *[None] * (outputs - 1)) if outputs else hidden_states

    previous = block.__dict__.get("forward")  # accelerate's, if there is one
    block.__dict__["forward"] = forward
    try:
        yield
    finally:
        del block.__dict__["forward"]
        if previous is not None:
            block.__dict__["forward"] = previous


@contextmanager
def _entered_by(block: nn.Module, state: Tensor) -> Iterator[None]:
    """Replace the hidden state that ``block`` gets by ``state`` [rows, tokens, d]."""

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        original = args[0] if args else kwargs["hidden_states"]
        replacement = state.to(original.device)
        return ((replacement, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": replacement})

    with block.register_forward_pre_hook(enter, with_kwargs=True):
        yield

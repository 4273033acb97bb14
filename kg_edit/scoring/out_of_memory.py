"""What to do when memory runs out: halve what is done at once, and try again."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from kg_edit.errors import ModelError

_SAID = ("out of memory", "can't allocate memory", "cannot allocate memory", "failed to allocate")

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_halves(call: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]) -> list[Result]:
    """``call(items)``; where memory runs out that of one half, then of the other, and so on.

    Raises:
        ModelError: there is not enough memory for one item.
    """
    try:
        return list(call(items))
    except (RuntimeError, MemoryError) as error:
        failure = memory_failure(error)  # in the handler, as the error holds on to the tensors of the failed call
    release()
    if len(items) == 1:
        raise failure
    middle = len(items) // 2
    return [*in_halves(call, items[:middle]), *in_halves(call, items[middle:])]


def memory_failure(error: Exception) -> ModelError:
    """``error`` in plain words if it says that memory ran out, on the CPU or on an accelerator; else raises it."""
    said = str(error).casefold()
    if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not any(words in said for words in _SAID):
        raise error
    first = (str(error).splitlines() or ["MemoryError"])[0]
    return ModelError(f"out of memory, even for one at a time: {first}; take a smaller model, or a larger machine")


def release() -> None:
    """Give back what a failed call left behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

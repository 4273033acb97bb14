"""Boxes one after the other in rows, as words are wrapped into lines."""

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def wrapped(items: Sequence[Item], widths: Sequence[float], *, widest: float) -> list[list[Item]]:
    """The items in their order, in rows no wider than `widest` (but for a lone item that is)."""
    rows: list[list[Item]] = [[]]
    filled = 0.0
    for item, width in zip(items, widths, strict=True):
        if rows[-1] and filled + width > widest:
            rows.append([])
            filled = 0.0
        rows[-1].append(item)
        filled += width
    return rows

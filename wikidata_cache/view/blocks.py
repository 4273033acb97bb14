"""Many small boxes below one another's names: each node with a block of rows of what hangs on it, blocks in blocks."""

import math
from collections.abc import Mapping, Sequence

from wikidata_cache.view.boxes import Extent
from wikidata_cache.view.wrapping import wrapped

_GAP = 0.4  # between boxes, in heights of the smallest
_SHAPE = 1.8  # a block's width for its height

Size = tuple[float, float]
Point = tuple[float, float]
Block = tuple[dict[str, Point], Extent]


def block(root: str, children: Mapping[str, Sequence[str]], sizes: Mapping[str, Size], *, is_upwards: bool) -> Block:
    """Places relative to the root's middle, and the rectangle around them; rows stand below the root, or above it.

    Deep trees need no deep recursion: the blocks are made from the outermost nodes inwards.
    """
    order = [root]
    for node in order:
        order += children[node]
    blocks: dict[str, Block] = {}
    for node in reversed(order):
        parts = [blocks.pop(child) for child in children[node]]
        gap = _GAP * min((sizes[child][1] for child in children[node]), default=0.0)
        blocks[node] = _joined(node, parts, sizes[node], gap, is_upwards)
    return blocks[root]


def _joined(node: str, parts: Sequence[Block], size: Size, gap: float, is_upwards: bool) -> Block:
    box = Extent.of(size)
    places: dict[str, Point] = {node: (0.0, 0.0)}
    if not parts:
        return places, box
    y, extent = box.bottom + 2 * gap, box
    for row in _rows(parts, gap):
        width = sum(each.right - each.left + gap for _, each in row) - gap
        height = max(each.bottom - each.top for _, each in row)
        x = -width / 2
        for inner, each in row:
            top = -y - each.bottom if is_upwards else y - each.top
            places |= {name: (x - each.left + dx, top + dy) for name, (dx, dy) in inner.items()}
            extent = extent.joined(each.at(x - each.left, top))
            x += each.right - each.left + gap
        y += height + gap
    return places, extent.wider(gap)


def _rows(parts: Sequence[Block], gap: float) -> list[list[Block]]:
    """Leaves before blocks, each in its order, in rows of about the same width."""
    ordered = sorted(parts, key=lambda part: len(part[0]) > 1)
    sizes = [(e.right - e.left + gap, e.bottom - e.top + gap) for _, e in ordered]
    area = sum(width * height for width, height in sizes)
    widest = max(math.sqrt(_SHAPE * area), max(width for width, _ in sizes))
    return wrapped(ordered, [width for width, _ in sizes], widest=widest)

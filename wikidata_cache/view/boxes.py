"""Place boxes of given sizes so that none touches another: on rings around a centre, in rows, or in nested blocks.

- `place_on_ring` puts boxes in order on the smallest ellipse that has room for all of them; no line from a box to the
  centre crosses another box. Too many boxes are put in rows above and below the centre.
- `place_in_block` puts a tree in rows of boxes below (or above) their parent, with blocks inside blocks.

Lengths are CSS pixels, y grows downwards, angles are radians, clockwise on the screen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")
Size = tuple[float, float]  # width, height
Point = tuple[float, float]  # x, y

# steps of the search for an angle; coarse for many boxes
_STEP = math.radians(0.75)
_COARSE = math.radians(1.5)
# number of rings for many boxes, and the distance (x, y) between rings
_STAGGERED = 3
_STAGGER = (150.0, 70.0)
_GROWTHS_BEFORE_STAGGER = 4  # a single ring grows this often before several rings are used
_PADDINGS = (26.0, 15.0, 9.0)  # pixels between boxes, tried in this order
_MAX_GROWTHS = 40  # a ring grows by an eighth each time
_MOST_GROUPS = 72  # on rings; more groups are put in rows
_MOST_BOXES = 400  # on rings; more boxes are put in rows
_FEW_BOXES = 72  # up to which the search takes small steps and tries every padding
_BISECTIONS = 6
# pixels between rows, and between rows and the centre
_ROW_GAP = 18.0
_CENTRE_GAP = 70.0
_GAP = 0.4  # gap between boxes of a block, as a fraction of the smallest box height
_SHAPE = 1.8  # width of a block divided by its height


class Rectangle(NamedTuple):
    """A rectangle, given by the coordinates of its sides in pixels relative to a point."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def of(cls, size: tuple[float, float]) -> Rectangle:
        """Return the rectangle of this (width, height) around its middle."""
        return cls(-size[0] / 2, -size[1] / 2, size[0] / 2, size[1] / 2)

    @property
    def width(self) -> float:
        """The length of the upper side."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """The length of the left side."""
        return self.bottom - self.top

    def at(self, x: float, y: float) -> Rectangle:
        """Return the rectangle moved by (x, y)."""
        return Rectangle(self.left + x, self.top + y, self.right + x, self.bottom + y)

    def wider(self, padding: float) -> Rectangle:
        """Return the rectangle with `padding` pixels added on each side."""
        return Rectangle(self.left - padding, self.top - padding, self.right + padding, self.bottom + padding)

    def joined(self, other: Rectangle) -> Rectangle:
        """Return the smallest rectangle around both."""
        return Rectangle(
            left=min(self.left, other.left),
            top=min(self.top, other.top),
            right=max(self.right, other.right),
            bottom=max(self.bottom, other.bottom),
        )

    def core(self) -> Rectangle:
        """Return the middle half of the rectangle, which lines of other boxes should not cross."""
        dx = self.width / 4
        dy = self.height / 4
        return Rectangle(self.left + dx, self.top + dy, self.right - dx, self.bottom - dy)

    def meets(self, other: Rectangle) -> bool:
        """Return whether the rectangles share a point."""
        if self.right < other.left or other.right < self.left:
            return False
        return self.bottom >= other.top and other.bottom >= self.top

    def is_crossed(self, x: float, y: float) -> bool:
        """Return whether the line from (0, 0) to (x, y) enters the rectangle."""
        # The points of the line are t (x, y) with 0 <= t <= 1. The line is between the left and the right side for one
        # range of t, between the upper and the lower side for another one, and in the rectangle where both overlap.
        enters = 0.0
        leaves = 1.0
        for end, low, high in ((x, self.left, self.right), (y, self.top, self.bottom)):
            if end:
                first, last = sorted((low / end, high / end))
                enters = max(enters, first)
                leaves = min(leaves, last)
            elif low > 0 or high < 0:  # the line runs beside the rectangle, parallel to these sides
                return False
        return enters <= leaves


class BoxGroup(NamedTuple):
    """Boxes that are placed together, relative to the middle of the first; `extent` is the rectangle around them."""

    boxes: Sequence[Rectangle]
    extent: Rectangle

    def at(self, x: float, y: float) -> BoxGroup:
        """Return the same boxes moved by (x, y)."""
        return BoxGroup([box.at(x, y) for box in self.boxes], self.extent.at(x, y))

    def meets(self, other: BoxGroup, padding: float) -> bool:
        """Return whether any box of this group comes nearer than `padding` to a box of the other group."""
        if not self.extent.wider(padding).meets(other.extent):
            return False
        near = [box for box in other.boxes if box.meets(self.extent.wider(padding))]
        for mine in self.boxes:
            widened = mine.wider(padding)
            if any(widened.meets(box) for box in near):
                return True
        return False

    def is_crossed(self, x: float, y: float) -> bool:
        """Return whether the line from (0, 0) to (x, y) crosses the core of any box."""
        return self.extent.is_crossed(x, y) and any(box.core().is_crossed(x, y) for box in self.boxes)


class Sector(NamedTuple):
    """The part of a ring to use: from `start` over `sweep` radians, with the smallest `radii` (x, y) and `rings` rings.

    `step` is the step of the search for an angle, in radians.
    """

    start: float
    sweep: float
    radii: tuple[float, float]
    rings: int = 1
    step: float = _STEP


def place_on_ring(centre: Rectangle, parts: Sequence[BoxGroup], sector: Sector) -> list[Point]:
    """Return a place (x, y) for each group, in order, spread evenly on the smallest ellipse that has room for them."""
    boxes = sum(len(part.boxes) for part in parts)
    if len(parts) > _MOST_GROUPS or boxes > _MOST_BOXES:
        return _place_rows_around(centre, parts)
    step = _STEP
    paddings: Sequence[float] = _PADDINGS
    if boxes > _FEW_BOXES:
        step = _COARSE
        paddings = _PADDINGS[2:]
    for growth in range(_MAX_GROWTHS):
        scale = 1.125**growth
        radii = (sector.radii[0] * scale, sector.radii[1] * scale)
        rings = 1
        if growth >= _GROWTHS_BEFORE_STAGGER:
            rings = _STAGGERED
        grown = sector._replace(radii=radii, rings=rings, step=step)
        for padding in paddings:
            points = _fill_ring(centre, parts, grown, padding, 0.0)
            if points:
                return _spread_out(centre, parts, grown, padding, points)
    return _place_rows_around(centre, parts)


def _spread_out(
    centre: Rectangle, parts: Sequence[BoxGroup], sector: Sector, padding: float, points: list[Point]
) -> list[Point]:
    """Return places with the largest angle between neighbours with which the groups still fit, found by bisection.

    `points` are places that fit, without any angle between neighbours.
    """
    low = 0.0
    high = sector.sweep / len(parts)
    even = _fill_ring(centre, parts, sector, padding, high)
    if even:
        return even
    for _ in range(_BISECTIONS):
        angle = (low + high) / 2
        wider = _fill_ring(centre, parts, sector, padding, angle)
        if wider:
            points = wider
            low = angle
        else:
            high = angle
    return points


def _fill_ring(
    centre: Rectangle, parts: Sequence[BoxGroup], sector: Sector, padding: float, least: float
) -> list[Point] | None:
    """Put each group at the first free angle at least `least` after the previous group; None if they do not fit."""
    angle = sector.start + least / 2
    end = sector.start + sector.sweep + 1e-9
    points: list[Point] = []
    placed: list[BoxGroup] = []
    for part in parts:
        point = _find_free(centre, part, angle, sector, placed, points, padding)
        while point is None and angle <= end:
            angle += sector.step
            point = _find_free(centre, part, angle, sector, placed, points, padding)
        if point is None or angle > end:
            return None
        points.append(point)
        placed.append(part.at(*point))
        angle += max(least, sector.step / 4)
    return points


def _find_free(
    centre: Rectangle,
    part: BoxGroup,
    angle: float,
    sector: Sector,
    placed: list[BoxGroup],
    points: list[Point],
    padding: float,
) -> Point | None:
    """Return the place on the innermost ring that has room in this direction, or None.

    The near side of the group's first box is on the ring. `placed` are the groups placed so far, at `points`.
    """
    box = part.boxes[0]
    across = math.cos(angle)
    down = math.sin(angle)
    # From the ring to the middle of the box: its near side is the left one to the right of the centre, and so on
    half_width = box.right
    if across > 0:
        half_width = -box.left
    half_height = box.bottom
    if down > 0:
        half_height = -box.top
    for number in range(sector.rings):
        x = across * (sector.radii[0] + number * _STAGGER[0] + half_width)
        y = down * (sector.radii[1] + number * _STAGGER[1] + half_height)
        if any(box.at(x, y).wider(padding).meets(other.boxes[0]) for other in placed):
            continue  # this cheap test rejects most points
        area = part.at(x, y)
        if area.meets(BoxGroup([centre], centre), padding):
            continue
        if any(area.meets(other, padding) for other in placed):
            continue
        # No line from the centre to a group may cross another group.
        if any(other.is_crossed(x, y) for other in placed):
            continue
        if any(area.is_crossed(*point) for point in points):
            continue
        return x, y
    return None


def _place_rows_around(centre: Rectangle, parts: Sequence[BoxGroup]) -> list[Point]:
    """Return places in rows above and below the centre, in a block about 1.6 times as wide as high."""
    extents = [part.extent for part in parts]
    area = sum((extent.width + _ROW_GAP) * (extent.height + _ROW_GAP) for extent in extents)
    widths = [extent.width + _ROW_GAP for extent in extents]
    rows = wrap_rows(extents, widths, widest=math.sqrt(1.6 * area))
    row_heights = []
    for row in rows:
        row_heights.append(max(extent.height for extent in row) + _ROW_GAP)

    first_below = len(rows) // 2  # the rows before it are above the centre
    row_top = centre.top - _CENTRE_GAP - sum(row_heights[:first_below])
    points = []
    for number, (row, row_height) in enumerate(zip(rows, row_heights, strict=True)):
        if number == first_below:
            row_top = centre.bottom + _CENTRE_GAP
        left = -sum(extent.width + _ROW_GAP for extent in row) / 2
        for extent in row:
            # An extent is relative to the place of its group, which is therefore moved against it: its left side comes
            # to `left`, and its middle to the middle of the row.
            x = left - extent.left
            y = row_top + (row_height - _ROW_GAP - extent.top - extent.bottom) / 2
            points.append((x, y))
            left += extent.width + _ROW_GAP
        row_top += row_height
    return points


class Block(NamedTuple):
    """The places of a tree's nodes relative to the middle of its root, and the rectangle around all boxes."""

    points: dict[str, Point]
    extent: Rectangle


def place_in_block(
    root: str, children: Mapping[str, Sequence[str]], sizes: Mapping[str, Size], *, is_upwards: bool
) -> Block:
    """Return the places of a root and of all that is below it in the tree.

    Args:
        root: the node.
        children: the children of each node.
        sizes: width and height of each node's box.
        is_upwards: whether rows are above their parent instead of below it.
    """
    order = [root]
    for node in order:  # the list grows while it is read: parents come before their children
        order += children[node]
    blocks: dict[str, Block] = {}
    for node in reversed(order):  # from the leaves to the root, without recursion: a chain may be long
        box = Rectangle.of(sizes[node])
        parts = [blocks.pop(child) for child in children[node]]
        if parts:
            gap = _GAP * min(sizes[child][1] for child in children[node])
            blocks[node] = _stack_rows(node, box, parts, gap, is_upwards=is_upwards)
        else:
            blocks[node] = Block({node: (0.0, 0.0)}, box)
    return blocks[root]


def _stack_rows(node: str, box: Rectangle, parts: list[Block], gap: float, *, is_upwards: bool) -> Block:
    """Return a node with the blocks of its children below (or above) it: leaves first, in rows of about equal width."""
    parts = sorted(parts, key=lambda part: len(part.points) > 1)
    area = sum((part.extent.width + gap) * (part.extent.height + gap) for part in parts)
    widths = [part.extent.width + gap for part in parts]
    widest = max(math.sqrt(_SHAPE * area), max(widths))
    points: dict[str, Point] = {node: (0.0, 0.0)}
    around = box
    near_side = box.bottom + 2 * gap  # distance of the row's near side from the middle of the node
    for row in wrap_rows(parts, widths, widest=widest):
        left = -(sum(part.extent.width + gap for part in row) - gap) / 2
        for part in row:
            # Where the root of the part comes, so that the part's left side is at `left`, and its near side in the row.
            x = left - part.extent.left
            y = near_side - part.extent.top
            if is_upwards:
                y = -near_side - part.extent.bottom
            for name, (dx, dy) in part.points.items():
                points[name] = (x + dx, y + dy)
            around = around.joined(part.extent.at(x, y))
            left += part.extent.width + gap
        near_side += max(part.extent.height for part in row) + gap
    return Block(points, around.wider(gap))


def wrap_rows(items: Sequence[Item], widths: Sequence[float], *, widest: float) -> list[list[Item]]:
    """Split the items, in order, into rows no wider than `widest`; a single wider item gets a row of its own."""
    rows: list[list[Item]] = [[]]
    filled = 0.0
    for item, width in zip(items, widths, strict=True):
        if rows[-1] and filled + width > widest:
            rows.append([])
            filled = 0.0
        rows[-1].append(item)
        filled += width
    return rows

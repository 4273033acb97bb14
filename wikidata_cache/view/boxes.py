"""Place boxes of given sizes so that none touches another: on rings around a centre, in rows, or in nested blocks.

- `place_on_ring` puts boxes in order on the smallest ellipse that has room for all of them; no line from a box to the
  centre crosses another box. Too many boxes are put in rows above and below the centre.
- `place_in_block` puts a tree in rows of boxes below (or above) their parent, with blocks inside blocks.

Lengths are CSS pixels, y grows downwards, angles are radians, clockwise on the screen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
# width divided by height: of all rows around a centre, and of a block
_ROWS_SHAPE = 1.6
_BLOCK_SHAPE = 1.8


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
    """Boxes that are placed together, that of the root first; `extent` is the rectangle around them.

    All coordinates are relative to the group's origin. It is the middle of the root, until `at` moves the boxes.
    """

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
    """The part of a ring to use: from `start` over `sweep` radians, with the smallest `radii` (x, y)."""

    start: float
    sweep: float
    radii: tuple[float, float]


class _Ring(NamedTuple):
    """One attempt at a sector: with larger radii, on one ring or several, trying an angle every `step` radians."""

    start: float
    sweep: float
    radii: tuple[float, float]  # of the innermost ring
    rings: int
    step: float


def place_on_ring(centre: Rectangle, parts: Sequence[BoxGroup], sector: Sector) -> list[Point]:
    """Return the origin (x, y) of each group, in order, spread evenly on the smallest ellipse with room for all.

    The groups are tried on larger and larger ellipses, each time with less and less padding between boxes. What fits
    first is spread out.
    """
    boxes = sum(len(part.boxes) for part in parts)
    if len(parts) > _MOST_GROUPS or boxes > _MOST_BOXES:
        return _place_rows_around(centre, parts)
    step = _STEP
    paddings: Sequence[float] = _PADDINGS
    if boxes > _FEW_BOXES:
        step = _COARSE
        paddings = _PADDINGS[2:]  # only the smallest
    for growth in range(_MAX_GROWTHS):
        scale = 1.125**growth
        radii = (sector.radii[0] * scale, sector.radii[1] * scale)
        rings = 1
        if growth >= _GROWTHS_BEFORE_STAGGER:
            rings = _STAGGERED
        ring = _Ring(sector.start, sector.sweep, radii, rings, step)
        for padding in paddings:
            points = _fill_ring(centre, parts, ring, padding, 0.0)
            if points is not None:
                return _spread_out(centre, parts, ring, padding, points)
    return _place_rows_around(centre, parts)


def _spread_out(
    centre: Rectangle, parts: Sequence[BoxGroup], ring: _Ring, padding: float, points: list[Point]
) -> list[Point]:
    """Return places with the largest angle between neighbours with which the groups still fit, found by bisection.

    `points` are places that fit, without any angle between neighbours.
    """
    low = 0.0
    high = ring.sweep / len(parts)
    even = _fill_ring(centre, parts, ring, padding, high)
    if even is not None:
        return even
    for _ in range(_BISECTIONS):
        angle = (low + high) / 2
        wider = _fill_ring(centre, parts, ring, padding, angle)
        if wider is not None:
            points = wider
            low = angle
        else:
            high = angle
    return points


def _fill_ring(
    centre: Rectangle, parts: Sequence[BoxGroup], ring: _Ring, padding: float, least_angle: float
) -> list[Point] | None:
    """Put each group at the first free angle, `least_angle` or more after the previous one; None if they do not fit."""
    angle = ring.start + least_angle / 2  # half before the first group, so that half is left behind the last one
    end = ring.start + ring.sweep + 1e-9  # so that rounding errors do not push the last group out
    placed = _PlacedGroups(centre, padding)
    for part in parts:
        point = None
        while point is None:
            if angle > end:
                return None
            point = _find_point(part, angle, ring, placed)
            if point is None:
                angle += ring.step
        placed.add(part, point)
        angle += max(least_angle, ring.step / 4)  # a quarter of a step is about the least that two groups need
    return placed.points


@dataclass
class _PlacedGroups:
    """The groups that are placed around a centre so far, with their origins; `padding` is kept between boxes."""

    centre: Rectangle
    padding: float
    groups: list[BoxGroup] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)  # the origin of each group

    def add(self, part: BoxGroup, point: Point) -> None:
        """Place a group with its origin at this point."""
        self.groups.append(part.at(*point))
        self.points.append(point)

    def has_room(self, part: BoxGroup, point: Point) -> bool:
        """Return whether a group with its origin at this point has room.

        It may not touch any other, and no line from the centre to the origin of one group may cross the core of a box
        of another group.
        """
        # A cheap test, which rejects most points: does the group's first box touch the first box of another group?
        first_box = part.boxes[0].at(*point).wider(self.padding)
        if any(first_box.meets(other.boxes[0]) for other in self.groups):
            return False
        moved = part.at(*point)
        if moved.meets(BoxGroup([self.centre], self.centre), self.padding):
            return False
        if any(moved.meets(other, self.padding) for other in self.groups):
            return False
        if any(other.is_crossed(*point) for other in self.groups):  # by the line to this group
            return False
        return not any(moved.is_crossed(*point_of_other) for point_of_other in self.points)


def _find_point(part: BoxGroup, angle: float, ring: _Ring, placed: _PlacedGroups) -> Point | None:
    """Return the place for a group on the innermost ring that has room in this direction; None if no ring has."""
    for number in range(ring.rings):
        radii = (ring.radii[0] + number * _STAGGER[0], ring.radii[1] + number * _STAGGER[1])
        point = _touch_ring(part.boxes[0], angle, radii)
        if placed.has_room(part, point):
            return point
    return None


def _touch_ring(box: Rectangle, angle: float, radii: tuple[float, float]) -> Point:
    """Return the origin of a group in this direction such that its first box is outside an ellipse.

    The box's sides that face the centre are `near_x` and `near_y` away from the origin. The origin is at

        x = cos(angle) (radii[0] + near_x),   y = sin(angle) (radii[1] + near_y)

    A group to the right of the centre (angle 0) has its origin at x = radii[0] - box.left, so that the left side of its
    box is at x = radii[0], on the ellipse.
    """
    across = math.cos(angle)
    down = math.sin(angle)
    near_x = box.right  # distance of the near side from the origin
    if across > 0:
        near_x = -box.left
    near_y = box.bottom
    if down > 0:
        near_y = -box.top
    return across * (radii[0] + near_x), down * (radii[1] + near_y)


def _place_rows_around(centre: Rectangle, parts: Sequence[BoxGroup]) -> list[Point]:
    """Return origins in rows above and below the centre, in a block about 1.6 times as wide as high."""
    extents = [part.extent for part in parts]
    widths = [extent.width + _ROW_GAP for extent in extents]
    rows = wrap_rows(extents, widths, widest=_choose_width(extents, gap=_ROW_GAP, shape=_ROWS_SHAPE))
    heights = []
    for row in rows:
        heights.append(max(extent.height for extent in row))

    first_below = len(rows) // 2  # the rows before it are above the centre
    top = centre.top - _CENTRE_GAP
    for height in heights[:first_below]:
        top -= height + _ROW_GAP
    points = []
    for number, row in enumerate(rows):
        if number == first_below:
            top = centre.bottom + _CENTRE_GAP
        points += _place_row(row, top=top, height=heights[number])
        top += heights[number] + _ROW_GAP
    return points


def _place_row(extents: Sequence[Rectangle], *, top: float, height: float) -> list[Point]:
    """Return the origins of groups in a row of this height; `extents` are the groups' own.

    The middle of the row, with a gap after its last group, is at x = 0.
    """
    left = -sum(extent.width + _ROW_GAP for extent in extents) / 2
    points = []
    for extent in extents:
        # An extent is relative to the origin of its group. If the origin is at (x, y), the group has its left side at
        # `left`, and its middle on the middle of the row: y + (extent.top + extent.bottom) / 2 = top + height / 2.
        x = left - extent.left
        y = top + (height - extent.top - extent.bottom) / 2
        points.append((x, y))
        left += extent.width + _ROW_GAP
    return points


class Block(NamedTuple):
    """The places of a tree's nodes relative to the middle of its root, and the rectangle around all boxes."""

    points: dict[str, Point]
    extent: Rectangle

    def at(self, x: float, y: float) -> Block:
        """Return the same block with its root at (x, y)."""
        points = {node: (x + dx, y + dy) for node, (dx, dy) in self.points.items()}
        return Block(points, self.extent.at(x, y))


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
    extents = [part.extent for part in parts]
    widths = [extent.width + gap for extent in extents]
    widest = max(_choose_width(extents, gap=gap, shape=_BLOCK_SHAPE), *widths)
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
            moved = part.at(x, y)
            points |= moved.points
            around = around.joined(moved.extent)
            left += part.extent.width + gap
        near_side += max(part.extent.height for part in row) + gap
    return Block(points, around.wider(gap))


def _choose_width(extents: Sequence[Rectangle], *, gap: float, shape: float) -> float:
    """Return the width of a block with room for these rectangles and the gaps, `shape` times as wide as high."""
    area = sum((extent.width + gap) * (extent.height + gap) for extent in extents)
    return math.sqrt(shape * area)  # from width * height = area, and width = shape * height


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

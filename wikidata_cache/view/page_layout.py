"""Where the nodes of a subgraph stand on the page: the subject left, o* beside it, what is said of each around it.

Pure arithmetic, so that a graph looks the same on every machine. Lengths are CSS pixels; y grows downwards.

Rectangles around points, and boxes that are placed together. Lengths are pixels; y grows downwards.

Boxes one after the other in rows, as words are wrapped into lines.

Boxes of given sizes on rings around a centre: in order, none on another, no line to the centre under a box.

Too many for rings stand in rows above and below the centre instead, where at least every label can be read.

Many small boxes below one another's names: each node with a block of rows of what hangs on it, blocks in blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import networkx as nx


class Extent(NamedTuple):
    """A rectangle around a point, in pixels from it; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def of(cls, size: tuple[float, float]) -> Extent:
        """A box of this width and height around its middle."""
        return cls(-size[0] / 2, -size[1] / 2, size[0] / 2, size[1] / 2)

    def at(self, x: float, y: float) -> Extent:
        """The same rectangle moved."""
        return Extent(self.left + x, self.top + y, self.right + x, self.bottom + y)

    def wider(self, padding: float) -> Extent:
        """With room around it."""
        return Extent(self.left - padding, self.top - padding, self.right + padding, self.bottom + padding)

    def joined(self, other: Extent) -> Extent:
        """The smallest rectangle around both."""
        return Extent(*map(min, self[:2], other[:2]), *map(max, self[2:], other[2:]))

    def core(self) -> Extent:
        """Its middle half, over which no foreign line should run."""
        width, height = (self.right - self.left) / 4, (self.bottom - self.top) / 4
        return Extent(self.left + width, self.top + height, self.right - width, self.bottom - height)

    def meets(self, other: Extent) -> bool:
        """Whether the rectangles share a point."""
        apart = self.right < other.left or other.right < self.left
        return not (apart or self.bottom < other.top or other.bottom < self.top)

    def is_crossed(self, x: float, y: float) -> bool:
        """Whether the line from (0, 0) to (x, y) enters the rectangle."""
        enters, leaves = 0.0, 1.0
        for way, low, high in ((x, self.left, self.right), (y, self.top, self.bottom)):
            if way:
                first, last = sorted((low / way, high / way))
                enters, leaves = max(enters, first), min(leaves, last)
            elif low > 0 or high < 0:
                return False
        return enters <= leaves


class Part(NamedTuple):
    """Boxes that are placed as one: the root's own first, relative to the root's middle; and what is around them."""

    boxes: Sequence[Extent]
    extent: Extent

    def at(self, x: float, y: float) -> Part:
        """The same boxes moved."""
        return Part([box.at(x, y) for box in self.boxes], self.extent.at(x, y))

    def meets(self, other: Part, padding: float) -> bool:
        """Whether any box of one comes nearer than `padding` to one of the other."""
        if not self.extent.wider(padding).meets(other.extent):
            return False
        near = [box for box in other.boxes if box.meets(self.extent.wider(padding))]
        return any(mine.wider(padding).meets(box) for mine in self.boxes for box in near)

    def is_crossed(self, x: float, y: float) -> bool:
        """Whether the line from (0, 0) to (x, y) runs over the middle of any box."""
        return self.extent.is_crossed(x, y) and any(box.core().is_crossed(x, y) for box in self.boxes)


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


_STEP, _COARSE = math.radians(0.75), math.radians(1.5)  # of the search for a place; where many boxes move together
_STAGGERED = 3  # rings that a crowd is spread over,
_STAGGER = (150.0, 70.0)  # so far apart,
_PATIENCE = 4  # once one ring has grown so often
_PADDINGS = (26.0, 15.0, 9.0)
_ENOUGH = 40  # growths of a ring by an eighth
_MOST, _MOST_BOXES, _MANY_BOXES = 72, 400, 72  # parts and boxes on rings; boxes that are placed roughly
_ROW_GAP, _HALL = 18.0, 70.0  # pixels between rows, and between them and the centre


class Sector(NamedTuple):
    """Where a ring may be used: from `start` over `sweep` radians (clockwise on the screen), and its least radii."""

    start: float
    sweep: float
    radii: tuple[float, float]
    rings: int = 1
    step: float = _STEP


def ring(centre: Extent, parts: Sequence[Part], sector: Sector) -> list[tuple[float, float]]:
    """A place for each box, in order, on the smallest ellipse that holds them, spread as evenly as it allows."""
    boxes = sum(len(part.boxes) for part in parts)
    fits = len(parts) <= _MOST and boxes <= _MOST_BOXES
    sector = sector._replace(step=_STEP if boxes <= _MANY_BOXES else _COARSE)
    for growth in range(_ENOUGH if fits else 0):
        radii = sector.radii[0] * 1.125**growth, sector.radii[1] * 1.125**growth
        grown = sector._replace(radii=radii, rings=1 if growth < _PATIENCE else _STAGGERED)
        for padding in _PADDINGS if boxes <= _MANY_BOXES else _PADDINGS[2:]:
            if places := _fill(centre, parts, grown, padding, 0.0):
                return _evened(centre, parts, grown, padding) or places
    return _rows_around(centre, parts)


def _evened(centre: Extent, parts: Sequence[Part], sector: Sector, padding: float) -> list[tuple[float, float]] | None:
    """The widest angle between neighbours for which all still fit, by bisection."""
    low, high = 0.0, sector.sweep / len(parts)
    best = _fill(centre, parts, sector, padding, high)
    for _ in range(0 if best else 6):
        angle = (low + high) / 2
        if places := _fill(centre, parts, sector, padding, angle):
            best, low = places, angle
        else:
            high = angle
    return best


def _fill(
    centre: Extent, parts: Sequence[Part], sector: Sector, padding: float, least: float
) -> list[tuple[float, float]] | None:
    """Each box at the first angle, at least `least` after the one before, where it is in nobody's way."""
    angle, end = sector.start + least / 2, sector.start + sector.sweep + 1e-9
    places: list[tuple[float, float]] = []
    taken: list[Part] = []
    for part in parts:
        while (spot := _free(centre, part, angle, sector, (taken, places), padding)) is None:
            angle += sector.step
            if angle > end:
                return None
        if angle > end:
            return None
        places.append(spot)
        taken.append(part.at(*spot))
        angle += max(least, sector.step / 4)
    return places


def _free(
    centre: Extent,
    part: Part,
    angle: float,
    sector: Sector,
    held: tuple[list[Part], list[tuple[float, float]]],
    padding: float,
) -> tuple[float, float] | None:
    """The innermost ring that has room for a box in this direction; its near side is on the ring."""
    box = part.boxes[0]
    across, down = math.cos(angle), math.sin(angle)
    for number in range(sector.rings):
        x = across * (sector.radii[0] + number * _STAGGER[0] + (-box.left if across > 0 else box.right))
        y = down * (sector.radii[1] + number * _STAGGER[1] + (-box.top if down > 0 else box.bottom))
        if any(box.at(x, y).wider(padding).meets(other.boxes[0]) for other in held[0]):
            continue  # soon seen, mostly
        area = part.at(x, y)
        if area.meets(Part([centre], centre), padding) or any(area.meets(other, padding) for other in held[0]):
            continue
        if any(other.is_crossed(x, y) for other in held[0]):
            continue
        if not any(area.is_crossed(*place) for place in held[1]):
            return x, y
    return None


def _rows_around(centre: Extent, parts: Sequence[Part]) -> list[tuple[float, float]]:
    """Rows like lines of text in a block about half as wide again as high, with a hall for the centre."""
    rows = _ring_rows([part.extent for part in parts])
    heights = [max(extent.bottom - extent.top for extent in row) + _ROW_GAP for row in rows]
    y = centre.top - _HALL - sum(heights[: len(rows) // 2])
    places = []
    for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
        if number == len(rows) // 2:
            y = centre.bottom + _HALL
        x = -sum(extent.right - extent.left + _ROW_GAP for extent in row) / 2
        for extent in row:
            places.append((x - extent.left, y + (height - _ROW_GAP - extent.top - extent.bottom) / 2))
            x += extent.right - extent.left + _ROW_GAP
        y += height
    return places


def _ring_rows(extents: Sequence[Extent]) -> list[list[Extent]]:
    sizes = [(e.right - e.left + _ROW_GAP, e.bottom - e.top + _ROW_GAP) for e in extents]
    widest = math.sqrt(1.6 * sum(width * height for width, height in sizes))
    return wrapped(extents, [width for width, _ in sizes], widest=widest)


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


_ROOTS = ("target_new", "subject", "target_true")
_ROAD = (0.25, 0.5)  # radians kept free above and below the edge between two roots
_BETWEEN, _DOWN = 230.0, 110.0  # pixels that the edges from the subject to o* and to o have at least
_FAN = math.radians(250)  # what hangs on a neighbour spreads away from its parent
_AROUND_ROOT, _AROUND_NEIGHBOUR = (165.0, 180.0), (125.0, 100.0)
CROWD, _TIGHT, _BOLD = 80, 0.6, 2.2  # above so many edges labels are hidden: edges shorter, those of the edit longer
LARGE = 100  # above so many nodes, what hangs on a neighbour stands in a block beside it, in small


@dataclass
class _Cluster:
    """Places relative to a root at (0, 0), and the rectangle around them all."""

    places: dict[str, Point]
    part: Part

    @property
    def extent(self) -> Extent:
        """The rectangle around all its boxes."""
        return self.part.extent

    def take(self, other: _Cluster, x: float, y: float) -> None:
        """Add another cluster with its root at (x, y)."""
        self.places |= {node: (x + dx, y + dy) for node, (dx, dy) in other.places.items()}
        moved = other.part.at(x, y)
        self.part = Part([*self.part.boxes, *moved.boxes], self.extent.joined(moved.extent))


@dataclass
class _Tree:
    """Each node below the one from which a breadth-first walk reached it."""

    roots: list[str] = field(default_factory=list)
    children: dict[str, list[str]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    is_crowd: bool = False
    is_large: bool = False

    @property
    def scale(self) -> float:
        """Of the edges between neighbours."""
        return _TIGHT if self.is_crowd else 1.0

    @property
    def stretch(self) -> float:
        """Of the edges from the subject to o* and to o."""
        return _BOLD if self.is_crowd else 1.0


def place_nodes(graph: nx.MultiDiGraph, sizes: Mapping[str, Size]) -> dict[str, tuple[int, int]]:
    """The middle of each node's box; no two boxes of the given widths and heights touch."""
    tree = _tree(graph)
    if not tree.roots:
        return {}
    roles = {graph.nodes[root].get("role"): root for root in reversed(tree.roots)}
    main, subject, old = tree.roots[0], roles.get("subject"), roles.get("target_true")
    if subject is None or subject == main:
        picture = _cluster(main, tree, sizes, _sector(None, 0.0, _AROUND_ROOT))
    else:
        road = Sector(-math.pi + _ROAD[0], 2 * math.pi - sum(_ROAD), _AROUND_ROOT)
        picture = _cluster(main, tree, sizes, road)
        side = _subject_side(subject, old if old != main else None, tree, sizes)
        picture.take(side, _beside(picture, side, tree.stretch), 0.0)
    for root in tree.roots:
        if root not in picture.places:
            other = _cluster(root, tree, sizes, _sector(None, 0.0, _AROUND_ROOT))
            picture.take(other, 0.0, picture.extent.bottom + 80 - other.extent.top)
    return {node: (round(picture.places[node][0]), round(picture.places[node][1])) for node in graph}


def _subject_side(subject: str, old: str | None, tree: _Tree, sizes: Mapping[str, Size]) -> _Cluster:
    """The subject with what hangs on it, and the old object with what hangs on that below."""
    down, right = math.pi / 2 + _ROAD[0], 2 * math.pi - _ROAD[1]  # roads to o and to o*
    side = _cluster(subject, tree, sizes, Sector(down, right - down, _AROUND_ROOT))
    if old is not None:
        below = _cluster(old, tree, sizes, _sector(math.pi / 2, math.pi, _AROUND_ROOT))
        side.take(below, 0.0, side.extent.bottom + _DOWN * tree.stretch - below.extent.top)
    return side


def _beside(picture: _Cluster, side: _Cluster, stretch: float) -> float:
    """How far left the subject stands: as near to o* as no box touches another."""
    x = picture.part.boxes[0].left - _BETWEEN * stretch - side.part.boxes[0].right
    while side.part.at(x, 0.0).meets(picture.part, 30):
        x -= 10
    return x


def _cluster(root: str, tree: _Tree, sizes: Mapping[str, Size], sector: Sector) -> _Cluster:
    """A root with its children on a ring around it, each with its own children beyond."""
    box = Extent.of(sizes[root])
    made = _Cluster({root: (0.0, 0.0)}, Part([box], box))
    children = tree.children[root]
    if children:
        radii = box.right + sector.radii[0] * tree.scale, sector.radii[1] * tree.scale
        sector = sector._replace(radii=radii)
        parts = [
            _hanging(child, tree, sizes, direction)
            for child, direction in zip(children, _directions(children, tree, sector), strict=True)
        ]
        for part, place in zip(
            parts, ring(box.wider(70 * tree.scale), [part.part for part in parts], sector), strict=True
        ):
            made.take(part, *place)
    return made


def _hanging(child: str, tree: _Tree, sizes: Mapping[str, Size], direction: float) -> _Cluster:
    """A child with all below it: on rings of their own, or as a block where the graph is large."""
    if not tree.is_large:
        return _cluster(child, tree, sizes, _sector(direction, _FAN, _AROUND_NEIGHBOUR))
    places, extent = block(child, tree.children, sizes, is_upwards=math.sin(direction) < -0.2)
    return _Cluster(places, Part([extent], extent))


def _directions(children: list[str], tree: _Tree, sector: Sector) -> list[float]:
    """Roughly where each child will stand, by the number of its own children."""
    weights = [1 + len(tree.children[child]) for child in children]
    before, directions = 0, []
    for weight in weights:
        directions.append(sector.start + sector.sweep * (before + weight / 2) / sum(weights))
        before += weight
    return directions


def _sector(middle: float | None, sweep: float, radii: Point) -> Sector:
    """A sector around a direction, or the whole circle from the left over the top."""
    return Sector(-math.pi, 2 * math.pi, radii) if middle is None else Sector(middle - sweep / 2, sweep, radii)


def _tree(graph: nx.MultiDiGraph) -> _Tree:
    """From o*, the subject and the old object together; then from nodes that none of them reaches."""
    roles = {role: node for node, role in reversed(list(graph.nodes(data="role")))}
    tree = _Tree(children={node: [] for node in graph}, is_crowd=graph.number_of_edges() > CROWD)
    tree.is_large = len(graph) > LARGE
    _walk(graph, [roles[role] for role in _ROOTS if role in roles], tree)
    for node in graph:
        if node not in tree.seen:
            _walk(graph, [node], tree)
    return tree


def _walk(graph: nx.MultiDiGraph, starts: list[str], tree: _Tree) -> None:
    """Breadth first along edges of both directions; children in the order of their edges' labels."""
    tree.roots += starts
    tree.seen |= set(starts)
    queue = list(starts)
    for node in queue:
        edges = [(data.get("label", ""), v) for _, v, data in graph.out_edges(node, data=True)]
        edges += [(data.get("label", ""), u) for u, _, data in graph.in_edges(node, data=True)]
        for _, child in sorted(edges):
            if child not in tree.seen:
                tree.seen.add(child)
                tree.children[node].append(child)
                queue.append(child)

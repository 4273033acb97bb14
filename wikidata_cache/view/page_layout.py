"""Place the nodes of a subgraph on its page: the subject on the left, o* beside it, neighbours on rings around each.

A node is the child of the node from which a breadth-first walk reached it. In large graphs, the children of a neighbour
are in a block beside it. The same graph has the same places on every machine. Lengths are CSS pixels; y grows
downwards; angles are radians.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import networkx as nx

from wikidata_cache.view.boxes import BoxGroup, Point, Rectangle, Sector, Size, place_in_block, place_on_ring

_ROOTS = ("target_new", "subject", "target_true")
_CLEARANCE = (0.25, 0.5)  # radians kept free above and below the edge between two roots
_BETWEEN, _DOWN = 230.0, 110.0  # pixels; smallest length of the edges from the subject to o* and to o
_FAN = math.radians(250)  # the children of a neighbour use this angle, away from its parent
_AROUND_ROOT, _AROUND_NEIGHBOUR = (165.0, 180.0), (125.0, 100.0)  # pixels; smallest radii (x, y) of rings
CROWD, _TIGHT, _BOLD = 80, 0.6, 2.2  # above 80 edges, labels are hidden, so edges are shorter and the edit's longer
LARGE = 100  # above this number of nodes, the children of a neighbour are small and in a block beside it


def place_nodes(graph: nx.MultiDiGraph, sizes: Mapping[str, Size]) -> dict[str, tuple[int, int]]:
    """Return the middle (x, y) of each node's box, in pixels; `sizes` are (width, height). No two boxes touch."""
    tree = _tree(graph)
    if not tree.roots:
        return {}
    roles = {graph.nodes[root].get("role"): root for root in reversed(tree.roots)}
    main, subject, old = tree.roots[0], roles.get("subject"), roles.get("target_true")
    if subject is None or subject == main:
        picture = _cluster(main, tree, sizes, _sector(None, 0.0, _AROUND_ROOT))
    else:
        open_sector = Sector(-math.pi + _CLEARANCE[0], 2 * math.pi - sum(_CLEARANCE), _AROUND_ROOT)
        picture = _cluster(main, tree, sizes, open_sector)
        side = _subject_side(subject, old if old != main else None, tree, sizes)
        picture.take(side, _beside(picture, side, tree.stretch), 0.0)
    for root in tree.roots:
        if root not in picture.places:
            other = _cluster(root, tree, sizes, _sector(None, 0.0, _AROUND_ROOT))
            picture.take(other, 0.0, picture.extent.bottom + 80 - other.extent.top)
    return {node: (round(picture.places[node][0]), round(picture.places[node][1])) for node in graph}


def _subject_side(subject: str, old: str | None, tree: _Tree, sizes: Mapping[str, Size]) -> _Cluster:
    """Return the subject with its children, and below it the old object with its children."""
    down, right = math.pi / 2 + _CLEARANCE[0], 2 * math.pi - _CLEARANCE[1]  # directions of the edges to o and to o*
    side = _cluster(subject, tree, sizes, Sector(down, right - down, _AROUND_ROOT))
    if old is not None:
        below = _cluster(old, tree, sizes, _sector(math.pi / 2, math.pi, _AROUND_ROOT))
        side.take(below, 0.0, side.extent.bottom + _DOWN * tree.stretch - below.extent.top)
    return side


def _beside(picture: _Cluster, side: _Cluster, stretch: float) -> float:
    """Return the x of the subject, left of o*: as near to o* as possible without touching boxes."""
    x = picture.part.boxes[0].left - _BETWEEN * stretch - side.part.boxes[0].right
    while side.part.at(x, 0.0).meets(picture.part, 30):
        x -= 10
    return x


def _cluster(root: str, tree: _Tree, sizes: Mapping[str, Size], sector: Sector) -> _Cluster:
    """Return a root with its children on a ring around it, each with its own children farther out."""
    box = Rectangle.of(sizes[root])
    cluster = _Cluster({root: (0.0, 0.0)}, BoxGroup([box], box))
    children = tree.children[root]
    if children:
        radii = box.right + sector.radii[0] * tree.scale, sector.radii[1] * tree.scale
        sector = sector._replace(radii=radii)
        parts = [
            _hanging(child, tree, sizes, direction)
            for child, direction in zip(children, _directions(children, tree, sector), strict=True)
        ]
        for part, place in zip(
            parts, place_on_ring(box.wider(70 * tree.scale), [part.part for part in parts], sector), strict=True
        ):
            cluster.take(part, *place)
    return cluster


def _hanging(child: str, tree: _Tree, sizes: Mapping[str, Size], direction: float) -> _Cluster:
    """Return a child with all its descendants: on rings, or in a block if the graph is large."""
    if not tree.is_large:
        return _cluster(child, tree, sizes, _sector(direction, _FAN, _AROUND_NEIGHBOUR))
    places, extent = place_in_block(child, tree.children, sizes, is_upwards=math.sin(direction) < -0.2)
    return _Cluster(places, BoxGroup([extent], extent))


def _directions(children: list[str], tree: _Tree, sector: Sector) -> list[float]:
    """Return the rough direction of each child, as an angle; a child with more children gets a wider angle."""
    weights = [1 + len(tree.children[child]) for child in children]
    before, directions = 0, []
    for weight in weights:
        directions.append(sector.start + sector.sweep * (before + weight / 2) / sum(weights))
        before += weight
    return directions


def _sector(middle: float | None, sweep: float, radii: Point) -> Sector:
    """Return a sector around the direction `middle`, or for None the whole circle from the left over the top."""
    return Sector(-math.pi, 2 * math.pi, radii) if middle is None else Sector(middle - sweep / 2, sweep, radii)


@dataclass
class _Cluster:
    """The places of nodes relative to a root at (0, 0), and their boxes as one group."""

    places: dict[str, Point]
    part: BoxGroup

    @property
    def extent(self) -> Rectangle:
        """The rectangle around all boxes of the cluster."""
        return self.part.extent

    def take(self, other: _Cluster, x: float, y: float) -> None:
        """Add another cluster with its root at (x, y)."""
        self.places |= {node: (x + dx, y + dy) for node, (dx, dy) in other.places.items()}
        moved = other.part.at(x, y)
        self.part = BoxGroup([*self.part.boxes, *moved.boxes], self.extent.joined(moved.extent))


@dataclass
class _Tree:
    """The breadth-first forest of a graph: the roots, and the children of each node, in order."""

    roots: list[str] = field(default_factory=list)
    children: dict[str, list[str]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    is_crowd: bool = False
    is_large: bool = False

    @property
    def scale(self) -> float:
        """The factor for the lengths of edges between neighbours: 0.6 in a crowded graph, else 1."""
        return _TIGHT if self.is_crowd else 1.0

    @property
    def stretch(self) -> float:
        """The factor for the lengths of the edges from the subject to o* and to o: 2.2 in a crowded graph, else 1."""
        return _BOLD if self.is_crowd else 1.0


def _tree(graph: nx.MultiDiGraph) -> _Tree:
    """Return the forest that grows from o*, subject and old object together, then from each node not reached yet."""
    roles = {role: node for node, role in reversed(list(graph.nodes(data="role")))}
    tree = _Tree(children={node: [] for node in graph}, is_crowd=graph.number_of_edges() > CROWD)
    tree.is_large = len(graph) > LARGE
    _walk(graph, [roles[role] for role in _ROOTS if role in roles], tree)
    for node in graph:
        if node not in tree.seen:
            _walk(graph, [node], tree)
    return tree


def _walk(graph: nx.MultiDiGraph, starts: list[str], tree: _Tree) -> None:
    """Add to the tree the nodes reached from `starts`, breadth-first along edges in both directions.

    Children are in the order of the labels of their edges.
    """
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

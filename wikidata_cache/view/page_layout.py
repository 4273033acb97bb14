"""Place the nodes of a subgraph on its page: the subject on the left, o* to its right, neighbours on rings around each.

A node is the child of the node from which a breadth-first walk reached it. In large graphs, the children of a neighbour
are in a block next to it. The same graph has the same places on every machine. Lengths are CSS pixels; y grows
downwards; angles are radians, clockwise: 0 is right, pi/2 down, -pi and pi left, 3/2 pi up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import networkx as nx

from wikidata_cache.view.boxes import BoxGroup, Point, Rectangle, Sector, Size, place_in_block, place_on_ring

_ROOTS = ("target_new", "subject", "target_true")
_BETWEEN = 230.0  # pixels; the smallest length of the edge from the subject to o*
_DOWN = 110.0  # pixels between what is around the subject and what is around the old object, below it
_EDIT_GAP = 30.0  # pixels between the boxes around the subject and those around o*
_PART_GAP = 80.0  # pixels between parts of the graph that no edge connects
# pixels; smallest radii (x, y) of rings
_ROOT_RADII = (165.0, 180.0)
_NEIGHBOUR_RADII = (125.0, 100.0)
# The children of a root are on a ring around it, where no edge to another root is. The angles (radians) are kept free
# before and after such an edge, clockwise.
_FREE_BEFORE = 0.5
_FREE_AFTER = 0.25
_FREE = _FREE_BEFORE + _FREE_AFTER
_CIRCLE = Sector(-math.pi, 2 * math.pi, _ROOT_RADII)  # from the left, over the top
# All but the left, up to pi - _FREE_BEFORE.
_AROUND_NEW = Sector(-math.pi + _FREE_AFTER, 2 * math.pi - _FREE, _ROOT_RADII)
# All but the lower right quarter, up to 2 pi - _FREE_BEFORE.
_AROUND_SUBJECT = Sector(math.pi / 2 + _FREE_AFTER, 3 / 2 * math.pi - _FREE, _ROOT_RADII)
_AROUND_OLD = Sector(0.0, math.pi, _ROOT_RADII)  # the lower half, from right to left
_ROOT_GAP = 70.0  # pixels that are kept free around a root
_FAN = math.radians(250)  # the children of a neighbour use this angle, away from its parent
# above 80 edges, labels are hidden, so edges are shorter and the edit's longer
CROWD = 80
_TIGHT = 0.6
_STRETCHED = 2.2
LARGE = 100  # above this number of nodes, the children of a neighbour are small and in a block next to it


def place_nodes(graph: nx.MultiDiGraph, sizes: Mapping[str, Size]) -> dict[str, tuple[int, int]]:
    """Return the middle (x, y) of each node's box, in pixels; `sizes` are (width, height). No two boxes touch."""
    tree = _grow_tree(graph)
    if not tree.roots:
        return {}
    main = tree.roots[0]  # o*; in a graph without one, the subject, the old object or the first node
    subject = _find_by_role(graph, tree.roots, "subject")
    old = _find_by_role(graph, tree.roots, "target_true")
    if subject is None or subject == main:
        picture = _place_cluster(main, tree, sizes, _CIRCLE)
    else:
        picture = _place_edit(main, subject, old, tree, sizes)
    # The other roots, each with its part of the graph, below what is there already.
    for root in tree.roots:
        if root not in picture.points:
            other = _place_cluster(root, tree, sizes, _CIRCLE)
            picture.add(other, 0.0, picture.extent.bottom + _PART_GAP - other.extent.top)
    places = {}
    for node in graph:
        x, y = picture.points[node]
        places[node] = (round(x), round(y))
    return places


def _place_edit(new: str, subject: str, old: str | None, tree: _Tree, sizes: Mapping[str, Size]) -> _Cluster:
    """Return o* with the subject on its left, and with the old object below the subject."""
    picture = _place_cluster(new, tree, sizes, _AROUND_NEW)
    left = _place_cluster(subject, tree, sizes, _AROUND_SUBJECT)
    if old is not None:
        below = _place_cluster(old, tree, sizes, _AROUND_OLD)
        left.add(below, 0.0, left.extent.bottom + _DOWN * tree.stretch - below.extent.top)
    # The edge between the boxes of both has its smallest length, or a greater one where boxes would touch.
    x = picture.root_box.left - _BETWEEN * tree.stretch - left.root_box.right
    while left.group.at(x, 0.0).meets(picture.group, _EDIT_GAP):
        x -= 10
    picture.add(left, x, 0.0)
    return picture


def _place_cluster(root: str, tree: _Tree, sizes: Mapping[str, Size], sector: Sector) -> _Cluster:
    """Return a root with its children on a ring around it, each with its own children farther out."""
    box = Rectangle.of(sizes[root])
    cluster = _Cluster({root: (0.0, 0.0)}, BoxGroup([box], box))
    children = tree.children[root]
    if not children:
        return cluster
    parts = []
    for child, direction in zip(children, _choose_directions(children, tree, sector), strict=True):
        parts.append(_place_child(child, direction, tree, sizes))
    # Boxes are wide and low, so only the x radius grows with the root's box.
    radii = (box.right + sector.radii[0] * tree.scale, sector.radii[1] * tree.scale)
    centre = box.wider(_ROOT_GAP * tree.scale)
    points = place_on_ring(centre, [part.group for part in parts], sector._replace(radii=radii))
    for part, (x, y) in zip(parts, points, strict=True):
        cluster.add(part, x, y)
    return cluster


def _choose_directions(children: Sequence[str], tree: _Tree, sector: Sector) -> list[float]:
    """Return the rough direction of each child, an angle: the middle of its part of the sector.

    A child with more children of its own gets a wider part.
    """
    weights = [1 + len(tree.children[child]) for child in children]
    directions = []
    before = 0  # the weights of the children before this one
    for weight in weights:
        directions.append(sector.start + sector.sweep * (before + weight / 2) / sum(weights))
        before += weight
    return directions


def _place_child(child: str, direction: float, tree: _Tree, sizes: Mapping[str, Size]) -> _Cluster:
    """Return a neighbour with its own children: in a large graph in a block, else on a ring on its far side."""
    if not tree.is_large:
        return _place_cluster(child, tree, sizes, Sector(direction - _FAN / 2, _FAN, _NEIGHBOUR_RADII))
    is_upwards = math.sin(direction) < -0.2  # above its parent, by more than about 12 degrees
    points, extent = place_in_block(child, tree.children, sizes, is_upwards=is_upwards)
    return _Cluster(points, BoxGroup([extent], extent))  # the block counts as one box; its origin is the child's middle


@dataclass
class _Cluster:
    """The middles of nodes relative to a root at (0, 0), and their boxes as one group, that of the root first."""

    points: dict[str, Point]
    group: BoxGroup

    @property
    def root_box(self) -> Rectangle:
        return self.group.boxes[0]

    @property
    def extent(self) -> Rectangle:
        return self.group.extent

    def add(self, other: _Cluster, x: float, y: float) -> None:
        """Add another cluster with its root at (x, y)."""
        self.points |= {node: (x + dx, y + dy) for node, (dx, dy) in other.points.items()}
        moved = other.group.at(x, y)
        self.group = BoxGroup([*self.group.boxes, *moved.boxes], self.extent.joined(moved.extent))


@dataclass
class _Tree:
    """The breadth-first forest of a graph: the roots, and the children of each node, in order.

    With it go three settings that depend on the size of the graph: `scale` is the factor for the lengths of edges
    between neighbours, `stretch` that for the edges from the subject to o* and to o, and `is_large` puts the children
    of a neighbour into a block.
    """

    roots: list[str] = field(default_factory=list)
    children: dict[str, list[str]] = field(default_factory=dict)
    scale: float = 1.0
    stretch: float = 1.0
    is_large: bool = False


def _grow_tree(graph: nx.MultiDiGraph) -> _Tree:
    """Return the forest that grows from o*, subject and old object together, then from each node not reached yet."""
    tree = _Tree(children={node: [] for node in graph}, is_large=len(graph) > LARGE)
    if graph.number_of_edges() > CROWD:
        tree.scale = _TIGHT
        tree.stretch = _STRETCHED
    ends = []
    for role in _ROOTS:
        node = _find_by_role(graph, graph.nodes, role)
        if node is not None:
            ends.append(node)
    seen: set[str] = set()
    _grow_from(ends, graph, tree, seen)
    for node in graph:
        if node not in seen:
            _grow_from([node], graph, tree, seen)
    return tree


def _find_by_role(graph: nx.MultiDiGraph, nodes: Iterable[str], role: str) -> str | None:
    """Return the first of these nodes with a role; None if there is none."""
    for node in nodes:
        if graph.nodes[node].get("role") == role:
            return node
    return None


def _grow_from(roots: Sequence[str], graph: nx.MultiDiGraph, tree: _Tree, seen: set[str]) -> None:
    """Add roots to the forest, and all nodes that a breadth-first walk reaches from them; both are added to `seen`."""
    tree.roots += roots
    seen.update(roots)
    queue = list(roots)
    for node in queue:  # the list grows while it is read
        # Edges in both directions, in the order of their labels.
        edges = [(data.get("label", ""), target) for _, target, data in graph.out_edges(node, data=True)]
        edges += [(data.get("label", ""), source) for source, _, data in graph.in_edges(node, data=True)]
        for _, child in sorted(edges):
            if child not in seen:
                seen.add(child)
                tree.children[node].append(child)
                queue.append(child)

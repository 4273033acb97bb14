"""Lay out a small subgraph as a tree from left to right, with each leaf on its own line.

The label of an edge is on the edge's own line, so that no two labels overlap. Edges bend before the labels of their
column begin, so that no edge crosses a label. A node that several edges reach is drawn at each of them, and expanded
only at the first. Lengths are CSS pixels for a font of 12 pixels; y counts from the top.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

import networkx as nx

from wikidata_cache.view.content import printable

LINE = 28.8  # distance from one leaf to the next
BOX_HEIGHT = 21.12
_PADDING = 24.96  # width of a node's box minus the width of its text
_BEND = 43.2  # width in which an edge bends, before its straight part with the label
_ARROW = 43.2  # how much longer the straight part is than its column's widest label; the arrowhead is at its end
_ARROWHEAD = 9.6  # room for the arrowhead, which `svg.py` draws with 8 pixels
_MARGIN = 24.0
_NARROW = set(" ijlftr.,;:'|!()-I1")
_WIDE = set("mwMW@%—…")


@dataclass
class DrawnNode:
    """A node drawn at the end of one edge, with its place; `again` means that it is drawn elsewhere already.

    The edge leaves the column of its parent at x = `bend[0]`, and is on the node's own line from x = `bend[1]` on.
    """

    node: str
    role: str
    text: str
    parent: DrawnNode | None = None
    edge_text: str = ""
    edge_role: str = ""
    again: bool = False
    column: int = 0
    left: float = 0.0
    y: float = 0.0
    bend: tuple[float, float] = (0.0, 0.0)
    children: list[DrawnNode] = field(default_factory=list, repr=False, compare=False)

    @property
    def width(self) -> float:
        """The width of the node's box."""
        return text_width(self.text, bold=self.role != "neighbour") + _PADDING

    @property
    def edge_width(self) -> float:
        """The width of the label of the node's edge."""
        return text_width(self.edge_text, bold=self.edge_role == "edit")

    @property
    def label_x(self) -> float:
        """The x of the middle of the edge's label. All labels of a column end at one x, before the arrowheads."""
        # The space between a label and its arrowhead; the widest label of the column has as much on its left.
        space = (_ARROW - _ARROWHEAD) / 2
        end = self.left - _ARROWHEAD - space
        return end - self.edge_width / 2


def lay_out(graph: nx.MultiDiGraph) -> tuple[list[DrawnNode], tuple[float, float]]:
    """Return the drawn nodes, each parent before its children, and the (width, height) of the picture.

    The graph has at least one node.
    """
    drawn = _grow_trees(graph)
    _place_across(drawn)
    leaves = _place_down(drawn)
    right = max(node.left + node.width for node in drawn)
    return drawn, (right + _MARGIN, (leaves + 1) * LINE)


def _grow_trees(graph: nx.MultiDiGraph) -> list[DrawnNode]:
    """Return the drawn nodes of all trees, breadth-first; a node is expanded where it is nearest to the root."""
    drawn: list[DrawnNode] = []
    seen: set[str] = set()
    for root in graph.nodes:
        if root in seen:
            continue
        seen.add(root)
        role, text = _read_role_and_text(graph, root)
        # A root may have a hop other than 0: a node that no edge leads to, such as one from which a shown node was
        # reached backwards. It is drawn in the column of its hop.
        queue = [DrawnNode(root, role, text, column=int(graph.nodes[root].get("hop", 0)))]
        for node in queue:  # the list grows while it is read
            if node.again:
                continue
            node.children = _list_children(graph, node)
            for child in node.children:
                child.again = child.node in seen
                seen.add(child.node)
                queue.append(child)
        drawn += queue
    return drawn


def _place_across(drawn: Sequence[DrawnNode]) -> None:
    """Set the x of each box and of the bend of its edge.

    From left to right: the boxes of column 0, the edges into column 1 (their bends, then their labels), the boxes of
    column 1, and so on.
    """
    count = max(node.column for node in drawn) + 1
    node_widths = [0.0] * count  # the widest node of each column
    edge_widths = [0.0] * count  # the room for the edges into each column, 0 where no edge leads
    for node in drawn:
        node_widths[node.column] = max(node_widths[node.column], node.width)
        if node.parent is not None:  # an edge leads to it, which may have no label
            edge_widths[node.column] = max(edge_widths[node.column], node.edge_width + _BEND + _ARROW)
    for node in drawn:
        # Left of its box are the boxes of the columns before, and the edges into these and into its own column.
        node.left = _MARGIN + sum(node_widths[: node.column]) + sum(edge_widths[: node.column + 1])
        start = node.left - edge_widths[node.column]
        node.bend = (start, start + _BEND)


def _place_down(drawn: Sequence[DrawnNode]) -> int:
    """Set y of each node, and return the number of leaves.

    Leaves get consecutive lines from the top, in the order of a depth-first walk; a parent is at the middle of its
    first and last child.
    """
    stack = [node for node in drawn if node.parent is None]
    stack.reverse()  # the last one is taken first
    leaves = []
    while stack:
        node = stack.pop()
        stack += reversed(node.children)
        if not node.children:
            leaves.append(node)
    for line, node in enumerate(leaves, start=1):
        node.y = line * LINE
    for node in reversed(drawn):  # children come after their parents in the list, so their y is known here
        if node.children:
            node.y = (node.children[0].y + node.children[-1].y) / 2
    return len(leaves)


def _read_role_and_text(graph: nx.MultiDiGraph, node: str) -> tuple[str, str]:
    data = graph.nodes[node]
    return data.get("role", "neighbour"), printable(data["label"])


def _list_children(graph: nx.MultiDiGraph, parent: DrawnNode) -> list[DrawnNode]:
    """Return the children of a drawn node: the edit's edge first, the replaced edge last, the others by label."""
    children = []
    for _, target, data in graph.out_edges(parent.node, data=True):
        role, text = _read_role_and_text(graph, target)
        label = printable(data["label"])
        child = DrawnNode(target, role, text, parent, edge_text=label, edge_role=data["role"], column=parent.column + 1)
        children.append(child)
    rank = {"edit": 0, "old": 2}
    return sorted(children, key=lambda child: (rank.get(child.edge_role, 1), child.edge_text, child.text, child.node))


def text_width(text: str, *, bold: bool = False) -> float:
    """Return the approximate width of a label, for a font of 12 pixels."""
    width = 0.0
    for character in text:
        width += _measure_character(character)
    if bold:
        width *= 1.13
    return width


def _measure_character(character: str) -> float:
    if character in _NARROW:
        return 4.032
    if unicodedata.east_asian_width(character) in "WF":
        return 13.44
    if unicodedata.combining(character):  # an accent is on the letter before it
        return 0.0
    if character in _WIDE:
        return 11.04
    if character.isupper():
        return 8.448
    return 7.2

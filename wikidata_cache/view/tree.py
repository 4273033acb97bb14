"""Lay out a small subgraph as a tree from left to right, with each leaf on its own line.

The label of an edge is on the edge's own line, so that no two labels overlap. Edges bend before the labels of their
column begin, so that no edge crosses a label. A node that several edges reach is drawn at each of them, and expanded
only at the first. Lengths are CSS pixels for a font of 12 pixels; y counts from the top.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import networkx as nx

from wikidata_cache.view.content import printable

LINE = 28.8  # distance from one leaf to the next
BOX_HEIGHT = 21.12
_PADDING = 24.96  # width of a node's box minus the width of its text
# space before and after the label of an edge
_BEND = 43.2
_ARROW = 43.2
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
        """The x of the middle of the label of the node's edge."""
        return self.left - (self.edge_width + _ARROW + 9.6) / 2


def lay_out(graph: nx.MultiDiGraph) -> tuple[list[DrawnNode], tuple[float, float]]:
    """Return the drawn nodes, each parent before its children, and the (width, height) of the picture."""
    drawn: list[DrawnNode] = []
    children: dict[int, list[DrawnNode]] = {}  # by the id() of the parent: one graph node may be drawn several times
    seen: set[str] = set()
    for root in graph.nodes:
        if root in seen:
            continue
        seen.add(root)
        # Breadth-first: a node is expanded where it is nearest to the root.
        queue = [DrawnNode(root, *_text_of(graph, root), column=int(graph.nodes[root].get("hop", 0)))]
        for node in queue:
            children[id(node)] = [] if node.again else _children(graph, node)
            for child in children[id(node)]:
                child.again = child.node in seen
                seen.add(child.node)
                queue.append(child)
        drawn += queue

    # x: a column begins after the previous column, the bends, and the longest edge label between the two.
    count = max((node.column for node in drawn), default=0) + 1
    nodes = [0.0] * count
    labels = [0.0] * count
    for node in drawn:
        nodes[node.column] = max(nodes[node.column], node.width)
        if node.parent is not None:
            labels[node.column] = max(labels[node.column], node.edge_width)
    edges = [label + _BEND + _ARROW if label else 0.0 for label in labels]
    for node in drawn:
        node.left = _MARGIN + sum(nodes[: node.column]) + sum(edges[: node.column + 1])
        start = node.left - edges[node.column]
        node.bend = start, start + _BEND

    # y: leaves get consecutive lines from the top, in the order of a depth-first walk; a parent is at the middle of its
    # first and last child. In the list, children come after their parents, so the list is read backwards.
    stack = [node for node in drawn if node.parent is None][::-1]
    leaves = []
    while stack:
        node = stack.pop()
        stack += children[id(node)][::-1]
        if not children[id(node)]:
            leaves.append(node)
    for line, node in enumerate(leaves, start=1):
        node.y = line * LINE
    for node in reversed(drawn):
        if below := children[id(node)]:
            node.y = (below[0].y + below[-1].y) / 2

    right = max((node.left + node.width for node in drawn), default=96.0)
    return drawn, (right + _MARGIN, (len(leaves) + 1) * LINE)


def _text_of(graph: nx.MultiDiGraph, node: str) -> tuple[str, str]:
    data = graph.nodes[node]
    return data.get("role", "neighbour"), printable(data["label"])


def _children(graph: nx.MultiDiGraph, parent: DrawnNode) -> list[DrawnNode]:
    """Return the children of a drawn node: the edit's edge first, the replaced edge last, the others by property."""
    children = []
    for _, target, data in graph.out_edges(parent.node, data=True):
        role, text = _text_of(graph, target)
        label = printable(data["label"])
        children.append(DrawnNode(target, role, text, parent, label, data["role"], column=parent.column + 1))
    rank = {"edit": 0, "old": 2}
    return sorted(children, key=lambda child: (rank.get(child.edge_role, 1), child.edge_text, child.text, child.node))


def text_width(text: str, *, bold: bool = False) -> float:
    """Return the approximate width of a label, for a font of 12 pixels."""
    width = 0.0
    for character in text:
        if character in _NARROW:
            width += 4.032
        elif unicodedata.east_asian_width(character) in "WF":
            width += 13.44
        elif not unicodedata.combining(character):  # an accent is on the letter before it
            if character in _WIDE:
                width += 11.04
            else:
                width += 8.448 if character.isupper() else 7.2
    return width * (1.13 if bold else 1.0)

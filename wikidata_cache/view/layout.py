"""Places for the edges of a small subgraph: a tree from left to right, each leaf on a line of its own.

Readable rather than clever: each edge has its label on a line of its own, so that no two labels overlap.
A node that several edges reach is drawn at each of them, and expanded at the first. Lengths are in inches, so
a picture grows with its graph.
"""

import unicodedata
from dataclasses import dataclass

import networkx as nx

LINE = 0.3  # from one leaf to the next
_PADDING = 0.26  # around a node's text
_GAP = 0.9  # for the bend and the arrow, beside an edge's label
_MARGIN = 0.25
_LONGEST = 40  # characters of a label that are drawn
_JOINERS = "\u200c\u200d"  # Persian and Indic words, and families of emoji, need them
_NARROW, _WIDE = set(" ijlftr.,;:'|!()-I1"), set("mwMW@%—…")


@dataclass
class Place:
    """A node drawn at the end of one edge. `again` marks every place of a node but its first."""

    node: str
    role: str
    text: str
    parent: "Place | None" = None
    edge_text: str = ""
    edge_role: str = ""
    again: bool = False
    column: int = 0
    left: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        """Of the node's box."""
        return text_width(self.text, bold=self.role != "neighbour") + _PADDING


def printable(text: str, *, longest: int = _LONGEST) -> str:
    """A label as one line of printable characters, shortened where it is long."""
    line = " ".join("".join(c if _is_printable(c) else " " for c in text).split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def _is_printable(character: str) -> bool:
    return character in _JOINERS or unicodedata.category(character)[0] != "C"


def text_width(text: str, *, bold: bool = False) -> float:
    """The approximate width of a label at 9 points; wide scripts and emoji count most."""
    return sum(map(_glyph_width, text)) * (1.13 if bold else 1.0)


def lay_out(graph: nx.MultiDiGraph) -> tuple[list[Place], tuple[float, float]]:
    """The places of a subgraph, each parent before its children, and the picture's width and height."""
    places: list[Place] = []
    seen: set[str] = set()
    for root in graph.nodes:
        if root not in seen:
            places += _tree(graph, root, seen)
    _set_columns(places)
    count = _set_lines(places)
    right = max((place.left + place.width for place in places), default=1.0)
    return places, (right + _MARGIN, (count + 1) * LINE)


def _tree(graph: nx.MultiDiGraph, root: str, seen: set[str]) -> list[Place]:
    """Breadth first, so that a node is expanded where it is nearest to the root."""
    data = graph.nodes[root]
    queue = [Place(root, data["role"], printable(data["label"]), column=data["hop"])]
    seen.add(root)
    for place in queue:
        if not place.again:
            for child in _children(graph, place):
                child.again = child.node in seen
                seen.add(child.node)
                queue.append(child)
    return queue


def _children(graph: nx.MultiDiGraph, place: Place) -> list[Place]:
    """The edit's edge first, the one it replaces last; else by property, so that equal ones stand together."""
    children = []
    for _, target, data in graph.out_edges(place.node, data=True):
        node = graph.nodes[target]
        ends = target, node["role"], printable(node["label"])
        children.append(Place(*ends, place, printable(data["label"]), data["role"], column=place.column + 1))
    rank = {"edit": 0, "old": 2}
    return sorted(children, key=lambda child: (rank.get(child.edge_role, 1), child.edge_text, child.text, child.node))


def _set_lines(places: list[Place]) -> int:
    """Give leaves consecutive lines from the top and parents the middle of theirs; returns the line count."""
    below: dict[int, list[Place]] = {id(place): [] for place in places}
    roots = [place for place in places if place.parent is None]
    for place in places:
        if place.parent is not None:
            below[id(place.parent)].append(place)
    stack, leaves = roots[::-1], []
    while stack:
        place = stack.pop()
        stack += below[id(place)][::-1]
        if not below[id(place)]:
            leaves.append(place)
    for line, place in enumerate(reversed(leaves), start=1):
        place.y = line * LINE
    for place in reversed(places):  # children stand behind their parents
        if children := below[id(place)]:
            place.y = (children[0].y + children[-1].y) / 2
    return len(leaves)


def _set_columns(places: list[Place]) -> None:
    """Each column begins behind the one before it and the longest edge label between them."""
    count = max((place.column for place in places), default=0) + 1
    nodes, edges = [0.0] * count, [0.0] * count
    for place in places:
        nodes[place.column] = max(nodes[place.column], place.width)
        if place.parent is not None:
            edges[place.column] = max(edges[place.column], text_width(place.edge_text) + _GAP)
    for place in places:
        place.left = _MARGIN + sum(nodes[: place.column]) + sum(edges[: place.column + 1])


def _glyph_width(character: str) -> float:
    if character in _NARROW:
        return 0.042
    if unicodedata.east_asian_width(character) in "WF":
        return 0.14
    if unicodedata.combining(character):
        return 0.0
    return 0.115 if character in _WIDE else 0.088 if character.isupper() else 0.075

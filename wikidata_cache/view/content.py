"""The content that every view of a subgraph shows: printable texts of nodes and edges, and the replaced edge."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

import networkx as nx

from kg_common.ids import is_entity

GraphContent = dict[str, list[dict[str, Any]]]

OLD = "_:old"  # the node of an old object without an id
_KINDS = {"subject": "s", "target_new": "new", "target_true": "old"}
_RINGS = ("near", "far", "beyond")  # by the distance from the ends of the edit
_CAPTIONS = {"subject": "subject s", "target_new": "new object o*", "target_true": "old object o"}

_LONGEST = 40  # characters of a drawn label
_JOINERS = "\u200c\u200d"  # needed in Persian and Indic words, and in emoji families


def graph_content(graph: nx.MultiDiGraph) -> GraphContent:
    """Return `nodes` (id, label, description, kind, caption, hop, url) and `edges`.

    An edge has id, source, target, property, label, text (the shortened label), role and note. The `kind` of a node is
    its colour: "s", "new" and "old" for the ends of the edit, else "near", "far" or "beyond" by its distance from them.
    Its caption says in words what it is, such as "new object o*" or "hop 2".
    """
    edges = []
    for number, (source, target, key, data) in enumerate(graph.edges(keys=True, data=True)):
        label = str(data.get("label") or key)
        edges.append(
            {
                "id": f"e{number}",
                "source": source,
                "target": target,
                "property": key,
                "label": printable(label, longest=300),
                "text": printable(label, longest=34),
                "role": data.get("role", "statement"),
                "note": printable(_describe_edge(data), longest=80),
            }
        )
    around_edit = has_edit(edges)
    nearest = nearest_hop(edges)
    nodes = [_describe_node(node, data, nearest, around_edit=around_edit) for node, data in graph.nodes(data=True)]
    return {"nodes": nodes, "edges": edges}


def _describe_node(node: str, data: Mapping[str, Any], nearest: int, *, around_edit: bool) -> dict[str, Any]:
    """Return a node's texts, colour, caption and hop; `nearest` is the result of `nearest_hop`.

    `nearest` is 2 around an edit, and 1 around a single item, which has the role "subject". Kind and caption:

        role         hop   around an edit           around an item
        subject      0     s, "subject s"           s, "the item itself"
        target_new   1     new, "new object o*"
        neighbour    1     near, "hop 1"            near, "hop 1"
        neighbour    2     near, "hop 2"            far, "hop 2"
        neighbour    3     far, "hop 3"             beyond, "hop 3"
    """
    role = data.get("role", "neighbour")
    hop = int(data.get("hop", 0))
    ring = min(max(hop - nearest, 0), len(_RINGS) - 1)
    kind = _KINDS.get(role, _RINGS[ring])
    caption = f"hop {hop}"
    if around_edit and role in _CAPTIONS:
        caption = _CAPTIONS[role]
    elif hop == 0:
        caption = "the item itself"
    url = ""
    if is_entity(node):
        url = f"https://www.wikidata.org/wiki/{node}"
    return {
        "id": node,
        "label": printable(str(data.get("label", node)), longest=300),
        "description": printable(str(data.get("description") or ""), longest=500),
        "kind": kind,
        "caption": caption,
        "hop": hop,
        "url": url,
    }


def _describe_edge(data: Mapping[str, Any]) -> str:
    """Return what an edge says besides its label, such as "from 1960-01-02 until 1970-01-01, preferred".

    Times are given as days, and "preferred" is the only rank that is named.
    """
    days = []
    for word, name in (("from", "start"), ("until", "end")):
        day = str(data.get(name) or "").partition("T")[0]
        if day:
            days.append(f"{word} {day}")
    parts = [" ".join(days)]
    if data.get("rank") == "preferred":
        parts.append("preferred")
    if "rule" in data:
        parts.append(f"follows by {data['rule']}")
    return ", ".join(filter(None, parts))


def with_old_edge(graph: nx.MultiDiGraph) -> nx.MultiDiGraph:
    """Return a plain copy with the edge that the edit replaces (role "old"), and its object if it is not a node yet.

    The subgraph itself normally lacks that edge; `graph.graph["old_edge"]` describes it.
    """
    shown = nx.MultiDiGraph(graph)
    old = graph.graph.get("old_edge")
    if not old or not old["object_label"] or old["subject"] not in shown:
        return shown
    target = old["object"] or OLD
    key = old["property"]
    edge = shown.get_edge_data(old["subject"], target, key)
    if edge and edge.get("role") == "edit":  # the edit states the old object again, so it replaces nothing
        return shown
    if target not in shown:
        shown.add_node(target, label=old["object_label"], hop=1, role="target_true")
    shown.add_edge(old["subject"], target, key=key, property=key, label=old["label"], role="old")
    return shown


def has_edit(edges: list[dict[str, Any]]) -> bool:
    """Return whether the edges include that of an edit (role "edit"); if not, the graph is an item's neighbourhood."""
    return any(edge["role"] == "edit" for edge in edges)


def nearest_hop(edges: list[dict[str, Any]]) -> int:
    """Return the hop of the nearest neighbours: 2 around an edit, whose own edge is hop 1; else 1."""
    if has_edit(edges):
        return 2
    return 1


def printable(text: str, *, longest: int = _LONGEST) -> str:
    """Return a label as one line of printable characters, shortened to `longest` characters."""
    # Category C: control characters, direction overrides, lone surrogates, unassigned code points.
    kept = ""
    for character in text:
        if character in _JOINERS or unicodedata.category(character)[0] != "C":
            kept += character
        else:
            kept += " "
    line = " ".join(kept.split())
    if len(line) <= longest:
        return line
    return line[: longest - 1].rstrip() + "…"

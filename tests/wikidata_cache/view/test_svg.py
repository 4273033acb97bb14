"""The static drawing: well-formed whatever the labels are, nothing overlaps."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import networkx as nx
import pytest

from tests.wikidata_cache.wikidata_helpers import EDITS, LAKERS, SPIKE
from wikidata_cache import WikidataCache
from wikidata_cache.errors import BadOptionError
from wikidata_cache.subgraphs.options import SubgraphOptions
from wikidata_cache.view.content import printable
from wikidata_cache.view.svg import draw, inline_svg, svg
from wikidata_cache.view.tree import LINE, lay_out, text_width

HOSTILE = [
    "</svg><script>window.hacked=1</script>",
    '"><img src=x onerror=alert(1)>',
    "a <b> & 'c' \"d\"",
    "עברית عربى",
    "😀 👩‍👩‍👧",
    "\x00\x1b\n\u202e",
    "%s {0} ^_^",
    "",
    "x" * 500,
]
NS = "{http://www.w3.org/2000/svg}"


def texts(drawing: str) -> list[str]:
    return [node.text or "" for node in ET.fromstring(drawing).iter() if node.tag.removeprefix(NS) == "text"]  # noqa: S314


def classes(drawing: str) -> list[str]:
    return [node.attrib.get("class", "") for node in ET.fromstring(drawing).iter("g")]  # noqa: S314


def pair(label: str) -> nx.MultiDiGraph:
    """An edit whose every text is this label."""
    graph = nx.MultiDiGraph()
    graph.add_node("a", label=label, hop=0, role="subject")
    graph.add_edge("a", "b", key="p", label=label, role="edit")
    graph.add_node("b", label=label, hop=1, role="target_new")
    return graph


def test_inline_svg_draws_every_label_with_its_role(cache: WikidataCache) -> None:
    graph = cache.subgraph(SPIKE, SubgraphOptions(per_node=12))
    drawing = inline_svg(graph, title="a <b>")
    assert {printable(data["label"]) for _, data in graph.nodes(data=True)} <= set(texts(drawing))
    kinds = classes(drawing)
    assert [kinds.count(kind) for kind in ("node s", "node new", "node old", "edge edit", "edge replaced")] == [1] * 5
    assert kinds.count("edge") == graph.number_of_edges() - 1
    root = ET.fromstring(drawing)  # noqa: S314
    assert root.findtext("title") == "a <b>"
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for box in root.iter("rect"):
        x, y, wide, tall = (float(box.attrib[name]) for name in ("x", "y", "width", "height"))
        assert x >= 0 and x + wide <= width and y >= 0 and y + tall <= height


@pytest.mark.parametrize("label", HOSTILE)
def test_labels_are_text_and_no_markup(label: str) -> None:
    shown = printable(label)
    assert texts(inline_svg(pair(label), title=shown)) == [shown] * 3
    assert texts(svg(pair(label)))[:3] == [shown] * 3
    tags = {node.tag.removeprefix(NS) for node in ET.fromstring(svg(pair(label), title=label)).iter()}  # noqa: S314
    assert tags == {"svg", "style", "g", "rect", "text", "path"}


def test_inline_svg_of_a_large_graph_draws_the_nearest_statements(cache: WikidataCache) -> None:
    graph = cache.subgraph(SPIKE, SubgraphOptions(hops=3, per_node=8))
    assert graph.number_of_edges() > 20
    kinds = classes(inline_svg(graph, title="", most=10))
    assert sum(kind in ("edge", "edge edit") for kind in kinds) == 10 and kinds.count("edge edit") == 1


def test_part_of_a_large_graph_begins_with_the_subject_and_has_what_leads_to_it() -> None:
    for name in "abcdef":  # of a set of nodes, some other one would be first
        graph = nx.MultiDiGraph()
        graph.add_node("s", label="S", hop=0, role="subject")
        graph.add_node("o", label="O", hop=1, role="target_new")
        graph.add_edge("s", "o", key="P1", label="edit", role="edit")
        for number in range(40):
            graph.add_node(f"{name}{number}", label="far", hop=2)
            graph.add_edge("o", f"{name}{number}", key="P2", label="far", role="statement")
        graph.add_node("near", label="near", hop=1)
        graph.add_edge("near", "s", key="P3", label="near", role="statement")
        drawing = inline_svg(graph, title="", most=10)
        assert next(kind for kind in classes(drawing) if kind.startswith("node")) == "node s"
        assert texts(drawing).count("far") == 2 * 8 and "near" in texts(drawing)


def test_draw_writes_labels_heading_and_legend(cache: WikidataCache, tmp_path: Path) -> None:
    graph = cache.subgraph(SPIKE)
    shown = texts(draw(graph, tmp_path / "a.svg", title="Spike Hughes → Philadelphia").read_text())
    assert {data["label"] for _, data in graph.nodes(data=True)} <= set(shown)
    assert {"place of birth", "subject s", "new object o*", "the edit", "Spike Hughes → Philadelphia"} <= set(shown)
    assert {"London", "old object o", "what it replaces"} <= set(shown) and "Q84" not in graph
    assert "var(" not in (tmp_path / "a.svg").read_text()  # converters to PDF do not know it


def test_draw_refuses_other_formats_and_empty_graphs(cache: WikidataCache, tmp_path: Path) -> None:
    with pytest.raises(BadOptionError, match=r"ending in \.svg"):
        draw(cache.subgraph(SPIKE), tmp_path / "a.pdf")
    for function in (svg, lambda graph: inline_svg(graph, title="")):
        with pytest.raises(BadOptionError, match="empty"):
            function(nx.MultiDiGraph())
    assert "Q9999999" in texts(svg(cache.neighbourhood("Q9999999")))  # a single node


def test_tree_draws_every_edge_once_and_no_two_boxes_or_labels_overlap(cache: WikidataCache) -> None:
    for edit in EDITS:
        graph = cache.subgraph(
            edit, SubgraphOptions(hops=3, per_node=6, roots=("target_new", "subject", "target_true"))
        )
        boxes, (width, height) = lay_out(graph)
        assert sum(box.parent is not None for box in boxes) == graph.number_of_edges()
        assert sum(not box.again for box in boxes) == len(graph)
        columns: dict[float, list[float]] = {}
        for box in boxes:
            assert box.left > 0 and box.left + box.width < width and 0 < box.y < height
            columns.setdefault(box.left, []).append(box.y)
        for ys in columns.values():
            gaps = [b - a for a, b in zip(sorted(ys), sorted(ys)[1:], strict=False)]
            assert min(gaps, default=LINE) > LINE * 0.99
        for box in boxes:
            if box.parent is None:
                continue
            column = [other for other in boxes if other.column == box.column and other.parent is not None]
            assert box.parent.left + box.parent.width <= box.bend[0] + 1e-9
            assert box.bend[1] <= min(other.label_x - other.edge_width / 2 for other in column)
            assert box.label_x + box.edge_width / 2 < box.left


def test_tree_draws_a_statement_about_itself_again() -> None:
    graph = nx.MultiDiGraph()
    graph.add_node("Q42", label="Adams")  # no role and no hop, as in a user's own graph
    graph.add_edge("Q42", "Q42", key="P50", label="author", role="statement")
    boxes, _ = lay_out(graph)
    assert [(box.node, box.edge_text, box.again) for box in boxes] == [
        ("Q42", "", False),
        ("Q42", "author", True),
    ]


def test_edges_without_labels_have_room_too() -> None:
    graph = nx.MultiDiGraph()
    for node, hop in (("Q42", 0), ("Q5", 1)):
        graph.add_node(node, label=node, hop=hop)
    graph.add_edge("Q42", "Q5", key="edit", label="", role="edit")  # of an edit without a relation's id and words
    boxes, _ = lay_out(graph)
    root, child = boxes
    assert child.left > root.left + root.width + 40, "the line between them runs to the right"


@pytest.mark.parametrize("title", [None, "A title that is far wider than the two nodes below it, " * 2])
def test_svg_is_as_wide_as_its_legend_and_title(title: str | None) -> None:
    root = ET.fromstring(svg(pair("a"), title=title))  # noqa: S314
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    for text in root.iter(f"{NS}text"):
        if text.attrib.get("class") in ("key", "heading"):
            size = 15 / 12 if text.attrib["class"] == "heading" else 10.5 / 12
            assert float(text.attrib["x"]) + text_width(text.text or "", bold=size > 1) * size <= width
            assert 0 < float(text.attrib["y"]) < height


def test_svg_shrinks_to_the_width_of_a_column(cache: WikidataCache) -> None:
    root = ET.fromstring(svg(cache.subgraph(LAKERS, SubgraphOptions(hops=3, per_node=3)), widest=600))  # noqa: S314
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    _, _, wide, tall = map(float, root.attrib["viewBox"].split())
    assert wide > 600 >= width
    assert width / height == pytest.approx(wide / tall, rel=1e-2)


def test_printable_shortens_and_drops_control_characters() -> None:
    assert printable("a\nb\t c\x00\u202ed") == "a b c d"
    assert len(printable("x" * 99)) == 40

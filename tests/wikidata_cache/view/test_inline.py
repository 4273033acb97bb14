"""The drawing inside a page: well-formed whatever the labels are, small, and no more than was asked for."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import networkx as nx
import pytest

from tests.wikidata_cache.view.test_static import HOSTILE
from tests.wikidata_cache.wikidata_helpers import SPIKE
from wikidata_cache import WikidataCache
from wikidata_cache.errors import BadOptionError
from wikidata_cache.subgraphs.options import SubgraphOptions
from wikidata_cache.view.content import printable
from wikidata_cache.view.inline import inline_svg

SCRIPTS = ("</svg><script>window.hacked=1</script>", '"><img src=x onerror=alert(1)>')


def test_every_label_is_drawn_with_its_role(cache: WikidataCache) -> None:
    graph = cache.subgraph(SPIKE, SubgraphOptions(per_node=12))
    drawn = ET.fromstring(inline_svg(graph, title="a <b>"))  # noqa: S314
    texts = [node.text for node in drawn.iter("text")]
    assert {printable(data["label"]) for _, data in graph.nodes(data=True)} <= set(texts)
    kinds = [node.attrib["class"] for node in drawn.iter("g")]
    assert [kinds.count(kind) for kind in ("node s", "node new", "node old", "edge edit", "edge replaced")] == [1] * 5
    assert kinds.count("edge") == graph.number_of_edges() - 1
    assert drawn.findtext("title") == "a <b>"
    _, _, width, height = map(float, drawn.attrib["viewBox"].split())
    for box in drawn.iter("rect"):
        x, y, wide, tall = (float(box.attrib[name]) for name in ("x", "y", "width", "height"))
        assert x >= 0 and x + wide <= width and y >= 0 and y + tall <= height


@pytest.mark.parametrize("label", [*HOSTILE, *SCRIPTS])
def test_a_label_is_text(label: str) -> None:
    graph = nx.MultiDiGraph()
    graph.add_node("a", label=label, hop=0, role="subject")
    graph.add_edge("a", "b", key="p", label=label, role="edit")
    graph.add_node("b", label=label, hop=1, role="target_new")
    drawn = ET.fromstring(inline_svg(graph, title=printable(label)))  # noqa: S314
    assert [node.text or "" for node in drawn.iter("text")] == [printable(label)] * 3
    assert {node.tag for node in drawn.iter()} == {"svg", "title", "g", "rect", "text", "path"}


def test_of_a_large_graph_the_nearest_statements_are_drawn(cache: WikidataCache) -> None:
    graph = cache.subgraph(SPIKE, SubgraphOptions(hops=3, per_node=8))
    drawn = ET.fromstring(inline_svg(graph, title="", most=10))  # noqa: S314
    assert graph.number_of_edges() > 20
    kinds = [node.attrib["class"] for node in drawn.iter("g")]
    assert sum(kind in ("edge", "edge edit") for kind in kinds) == 10 and kinds.count("edge edit") == 1


def test_an_empty_graph_is_refused() -> None:
    with pytest.raises(BadOptionError, match="empty"):
        inline_svg(nx.MultiDiGraph(), title="")

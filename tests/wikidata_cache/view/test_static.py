import struct
from pathlib import Path
from xml.etree import ElementTree as ET

import matplotlib as mpl
import networkx as nx
import pytest

from tests.everyday import keep_first
from tests.wikidata_cache.wikidata_helpers import EDITS, LAKERS, SPIKE, Edit
from wikidata_cache import WikidataCache
from wikidata_cache.errors import BadOptionError
from wikidata_cache.subgraphs.options import SubgraphOptions
from wikidata_cache.view import static
from wikidata_cache.view.content import printable
from wikidata_cache.view.static import draw
from wikidata_cache.view.tree import LINE, lay_out

HOSTILE = [
    "$x_1$ \\frac{a",
    "עברית עربى",
    "a <b> & 'c' \"d\"",
    "😀 👩‍👩‍👧",
    "\x00\x1b\n\u202e",
    "%s {0} ^_^",
    "",
    "x" * 500,
]


def texts(path: Path) -> list[str]:
    return ["".join(node.itertext()) for node in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314


def test_svg_holds_every_label(cache: WikidataCache, tmp_path: Path) -> None:
    graph = cache.subgraph(SPIKE)
    found = texts(draw(graph, tmp_path / "a.svg", title="Spike Hughes $ Philadelphia"))
    assert {data["label"] for _, data in graph.nodes(data=True)} <= set(found)
    assert {"place of birth", "subject s", "new object o*", "the edit", "Spike Hughes $ Philadelphia"} <= set(found)
    assert {"London", "old object o", "what it replaces"} <= set(found) and "Q84" not in graph


@pytest.mark.parametrize("suffix", keep_first(["svg", "png"]))
def test_the_same_graph_gives_the_same_file(cache: WikidataCache, tmp_path: Path, suffix: str) -> None:
    before = dict(mpl.rcParams)
    graph = cache.subgraph(LAKERS, SubgraphOptions(hops=3, per_node=5))
    first, second = (draw(graph, tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
    assert first == second
    assert dict(mpl.rcParams) == before


@pytest.mark.slow
def test_png_is_an_image_that_grows_with_the_graph(cache: WikidataCache, tmp_path: Path) -> None:
    heights = []
    for per_node in (3, 30):
        data = draw(cache.subgraph(SPIKE, SubgraphOptions(per_node=per_node)), tmp_path / "a.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        heights.append(struct.unpack(">I", data[20:24])[0])
    assert heights[1] > heights[0] + 20 * LINE * 150


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_hostile_labels(tmp_path: Path, suffix: str) -> None:
    rows = "".join(f"Q2\tP1\tQ{i}\n" for i in range(10, 10 + len(HOSTILE)))
    (tmp_path / "g.tsv").write_text(rows + "Q2\tlabel\tTwo\nP1\tlabel\t$_{\n")
    graph = WikidataCache(tmp_path / "g.tsv").subgraph(Edit("a $b$ c", "Two", relation="r"))
    for number, label in enumerate(HOSTILE, start=10):
        graph.add_node(f"Q{number}", label=label, hop=2, role="neighbour")
        graph.add_edge("Q2", f"Q{number}", key="P1", property="P1", label=label, role="statement")
    path = draw(graph, tmp_path / f"hostile.{suffix}")
    if suffix == "svg":
        assert {"$x_1$ \\frac{a", "a <b> & 'c' \"d\"", "עברית עربى"} <= set(texts(path))


def test_what_cannot_be_drawn(cache: WikidataCache, tmp_path: Path) -> None:
    with pytest.raises(BadOptionError, match=r"\.svg or \.png"):
        draw(cache.subgraph(SPIKE), tmp_path / "a.pdf")
    with pytest.raises(BadOptionError, match="empty"):
        draw(nx.MultiDiGraph(), tmp_path / "a.svg")


def test_a_lone_node(cache: WikidataCache, tmp_path: Path) -> None:
    assert "Q9999999" in texts(draw(cache.neighbourhood("Q9999999"), tmp_path / "a.svg"))


def test_every_edge_has_a_place_and_no_two_boxes_touch(cache: WikidataCache) -> None:
    for edit in EDITS:
        graph = cache.subgraph(
            edit, SubgraphOptions(hops=3, per_node=6, roots=("target_new", "subject", "target_true"))
        )
        places, (width, height) = lay_out(graph)
        assert sum(place.parent is not None for place in places) == graph.number_of_edges()
        assert sum(not place.again for place in places) == len(graph)
        for place in places:
            assert place.left > 0 and place.left + place.width < width and 0 < place.y < height
        columns: dict[float, list[float]] = {}
        for place in places:
            columns.setdefault(place.left, []).append(place.y)
        for ys in columns.values():
            gaps = [b - a for a, b in zip(sorted(ys), sorted(ys)[1:], strict=False)]
            assert min(gaps, default=LINE) > LINE * 0.99


def test_no_line_bends_where_a_label_stands(cache: WikidataCache) -> None:
    for edit in EDITS:
        graph = cache.subgraph(
            edit, SubgraphOptions(hops=3, per_node=6, roots=("target_new", "subject", "target_true"))
        )
        places, _ = lay_out(graph)
        for place in places:
            if place.parent is None:
                continue
            beside = [other for other in places if other.column == place.column and other.parent is not None]
            assert place.parent.left + place.parent.width <= place.bend[0] + 1e-9
            assert place.bend[1] <= min(other.label_x - other.edge_width / 2 for other in beside)
            assert place.label_x + place.edge_width / 2 < place.left


@pytest.mark.parametrize("title", [None, "A title that is far wider than the two nodes below it, " * 2])
def test_neither_the_legend_nor_the_title_is_cut_off(title: str | None) -> None:
    graph = nx.MultiDiGraph()
    graph.add_node("a", label="a", hop=0, role="subject")
    graph.add_node("b", label="b", hop=1, role="target_new")
    graph.add_node("c", label="c", hop=1, role="target_true")
    for target, role in (("b", "edit"), ("c", "old"), ("a", "statement")):
        graph.add_edge("a", target, key=role, label=role, role=role)
    figure = static._figure(graph, title)
    width = figure.bbox.width
    (axes,) = figure.axes
    drawn = [axes.get_legend(), *axes.texts]
    assert all(part.get_window_extent().x0 >= 0 and part.get_window_extent().x1 <= width for part in drawn if part)
    lowest = min(text.get_window_extent().y0 for text in axes.texts)
    assert axes.get_legend().get_window_extent().y1 < lowest, "the legend covers no label"


def test_a_page_may_make_the_drawing_smaller(cache: WikidataCache) -> None:
    root = ET.fromstring(static.svg(cache.subgraph(SPIKE)))  # noqa: S314
    assert root.attrib["style"] == "max-width: 100%; height: auto"
    width, height = (float(root.attrib[name].removesuffix("pt")) for name in ("width", "height"))
    _, _, wide, tall = map(float, root.attrib["viewBox"].split())
    assert wide > 600 >= width, "in a notebook it is as wide as a column"
    assert width / height == pytest.approx(wide / tall, rel=1e-3)


def test_a_statement_about_itself_is_drawn_again() -> None:
    graph = nx.MultiDiGraph()
    graph.add_node("Q42", label="Adams", hop=0, role="subject")
    graph.add_edge("Q42", "Q42", key="P50", label="author", role="statement")
    places, _ = lay_out(graph)
    assert [(place.node, place.edge_text, place.again) for place in places] == [
        ("Q42", "", False),
        ("Q42", "author", True),
    ]


def test_printable() -> None:
    assert printable("a\nb\t c\x00\u202ed") == "a b c d"
    assert len(printable("x" * 99)) == 40

"""The page as text: it is self-contained and safe to embed, and its boxes do not touch."""

import hashlib
import itertools
import json
import re
import tempfile
import webbrowser
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.everyday import keep_first
from tests.wikidata_cache.wikidata_helpers import EDITS, LAKERS, LEBRON, SPIKE
from wikidata_cache import WikidataCache
from wikidata_cache.errors import BadOptionError
from wikidata_cache.subgraphs.options import Leakage, SubgraphOptions
from wikidata_cache.view import page as page_module
from wikidata_cache.view.notebook import mimebundle
from wikidata_cache.view.page import elements, embeddable, page

VENDOR = Path(page_module.__file__).parent / "vendor"


class Reader(HTMLParser):
    """The tags of a page with their attributes, and the text of its data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""
        self._in_data = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_data = dict(attrs).get("id") == "data"

    def handle_endtag(self, tag: str) -> None:
        self._in_data = False

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.data += data


def touching(shown: dict[str, list[dict[str, int]]]) -> list[tuple[object, object]]:
    return [
        (a["id"], b["id"])
        for a, b in itertools.combinations(shown["nodes"], 2)
        if abs(a["x"] - b["x"]) < (a["width"] + b["width"]) / 2
        and abs(a["y"] - b["y"]) < (a["height"] + b["height"]) / 2
    ]


def test_page_loads_nothing(cache: WikidataCache) -> None:
    text = page(cache.subgraph(LAKERS, SubgraphOptions(hops=3, per_node=6)))
    reader = Reader(text)
    assert not [tag for tag, _ in reader.tags if tag in ("link", "img", "iframe", "object", "embed", "base", "form")]
    assert not [attrs for tag, attrs in reader.tags if {"src", "href", "srcset", "action"} & attrs.keys()]
    policy = next(attrs["content"] for _, attrs in reader.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none';") and "http" not in policy
    assert not re.search(r"url\(|@import", text[: text.index("<script")])


def test_page_holds_the_graph_and_the_old_edge(cache: WikidataCache) -> None:
    graph = cache.subgraph(LAKERS)
    shown = json.loads(Reader(page(graph)).data)
    assert {node["id"] for node in shown["nodes"]} == {*graph, "Q65"}
    assert [(e["source"], e["target"]) for e in shown["edges"] if e["role"] == "old"] == [("Q121783", "Q65")]
    assert len(shown["edges"]) == graph.number_of_edges() + 1
    kinds = {node["id"]: node["kind"] for node in shown["nodes"]}
    assert (kinds["Q121783"], kinds["Q8652"], kinds["Q65"]) == ("s", "new", "old")
    assert "<title>Los Angeles Lakers — headquarters location → Miami</title>" in page(graph)
    assert "Q65" not in graph and graph.number_of_edges() == len(shown["edges"]) - 1  # the graph itself is untouched


def test_elements_have_the_old_edge_once(cache: WikidataCache) -> None:
    # An edit towards the old object replaces nothing.
    graph = cache.subgraph(replace(LEBRON, target_true=LEBRON.target_new, target_true_id=LEBRON.target_new_id))
    assert {edge["role"] for edge in elements(graph)["edges"]} == {"edit", "statement"}
    # The graph may contain the old edge already.
    graph = cache.subgraph(
        LAKERS, SubgraphOptions(roots=("target_new", "subject"), per_node=100, leakage=Leakage(drop_old_edge=False))
    )
    old = [edge for edge in elements(graph)["edges"] if (edge["source"], edge["target"]) == ("Q121783", "Q65")]
    assert [edge["role"] for edge in old if edge["property"] == "P159"] == ["old"]
    # Subject and old object may lack an id.
    assert {"_:subject", "Q84"} <= {node["id"] for node in elements(cache.subgraph(SPIKE))["nodes"]}
    graph = cache.neighbourhood("Q1345")
    graph.graph["old_edge"] = {"subject": "Q1345", "property": "edit", "label": "", "object": None, "object_label": "X"}
    assert ("_:old", "X") in {(node["id"], node["label"]) for node in elements(graph)["nodes"]}


def test_page_shows_times_and_ranks_of_statements() -> None:
    graph = nx.MultiDiGraph()
    graph.add_edge("Q1", "Q2", key="P1", start="1960-01-02T00:00:00Z", end=None, rank="preferred")
    graph.add_edge("Q1", "Q2", key="P2", start=None, end="1970-01-01T00:00:00Z", rank="normal")
    notes = [edge["note"] for edge in elements(graph)["edges"]]
    assert notes == ["from 1960-01-02, preferred", "until 1970-01-01"]
    assert "P1 · from 1960-01-02, preferred" in page(graph)


@pytest.mark.parametrize("per_node", keep_first([1, 6, 60]))
def test_boxes_do_not_touch_on_real_subgraphs(cache: WikidataCache, per_node: int) -> None:
    for edit in EDITS:
        for hops in (1, 2, 3):
            graph = cache.subgraph(
                edit, SubgraphOptions(hops=hops, per_node=per_node, max_edges=150, roots=("target_new", "subject"))
            )
            assert not touching(elements(graph)), (edit.subject, hops)


def star(branches: int, leaves: int) -> nx.MultiDiGraph:
    """A hub with branches, and leaves on each of them."""
    graph = nx.MultiDiGraph()
    graph.add_node("Q1", label="hub", hop=0, role="subject")
    for branch in range(branches):
        names = [f"Q1{branch:03}", *(f"Q1{branch:03}{leaf:03}" for leaf in range(leaves))]
        for number, name in enumerate(names):
            graph.add_node(name, label=f"Association of {name}", hop=1 + (number > 0), role="neighbour")
            graph.add_edge(names[0] if number else "Q1", name, key="P1", label="has part", role="statement")
    return graph


@pytest.mark.parametrize(
    ("branches", "leaves", "width", "height"),
    keep_first([(20, 9, 4500, 3000), (60, 0, 1500, 1200), (200, 0, 1900, 1800)], unpack=True),
)
def test_boxes_of_many_nodes_stay_together(branches: int, leaves: int, width: int, height: int) -> None:
    shown = elements(star(branches, leaves))
    assert not touching(shown)
    xs, ys = [node["x"] for node in shown["nodes"]], [node["y"] for node in shown["nodes"]]
    assert max(xs) - min(xs) < width and max(ys) - min(ys) < height


@pytest.mark.slow
@pytest.mark.parametrize("wider", keep_first([1, 0]))
def test_outer_hops_of_large_graphs_are_small_and_near_their_parent(wider: int) -> None:
    shown = {node["id"]: node for node in elements(star(20, 9 + wider))["nodes"]}
    blocks = []
    for branch in range(20):
        leaves = [node for name, node in shown.items() if name.startswith(f"Q1{branch:03}") and len(name) > 5]
        blocks.append(
            (
                min(n["x"] for n in leaves),
                min(n["y"] for n in leaves),
                max(n["x"] for n in leaves),
                max(n["y"] for n in leaves),
            )
        )
        parent = shown[f"Q1{branch:03}"]
        assert all(3 * leaf["height"] < parent["height"] for leaf in leaves if "\n" not in leaf["lines"])
        assert all(abs(leaf["y"] - parent["y"]) < 250 and abs(leaf["x"] - parent["x"]) < 250 for leaf in leaves)
    for a, b in itertools.combinations(blocks, 2):
        assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def test_elements_of_a_deep_chain_have_places() -> None:
    graph = nx.MultiDiGraph()
    for number in range(1, 1000):
        graph.add_node(
            f"Q{number}", label=f"link {number}", hop=number - 1, role="subject" if number == 1 else "neighbour"
        )
        if number > 1:
            graph.add_edge(f"Q{number - 1}", f"Q{number}", key="P1", label="next", role="statement")
    positions = {(node["x"], node["y"]) for node in elements(graph)["nodes"]}
    assert len(positions) == 999


def test_page_counts_the_same_in_header_footer_and_table(cache: WikidataCache) -> None:
    graph = cache.subgraph(LAKERS)
    graph.add_edge("Q8652", "Q8652", key="P50", property="P50", label="author", role="statement")
    text, count = page(graph), graph.number_of_edges() + 1  # the replaced one is shown too
    assert text.count(f"{count} statements, 1 of them replaced") == 3  # header, picture's name, footer
    assert text[text.index("<tbody>") : text.index("</tbody>")].count("<tr") == count
    assert "Q8652 P50 Q8652" in text
    assert f"{count} statements, 1 of them replaced" in mimebundle(graph)["text/plain"]
    graph.graph["redirects"] = {"Q99": "Q8652"}
    assert "Q99 was merged into Q8652" in page(graph)


@given(st.data())
@pytest.mark.slow
def test_boxes_do_not_touch_on_any_graph(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 40))
    graph = nx.MultiDiGraph()
    roles = ["subject", "target_new", "target_true"]
    for number in range(size):
        label = data.draw(st.text(max_size=30))
        role = roles[number] if number < 3 and data.draw(st.booleans()) else "neighbour"
        graph.add_node(f"Q{number + 1}", label=label, hop=number % 4, role=role)
    for _ in range(data.draw(st.integers(0, 60))):
        ends = [f"Q{data.draw(st.integers(1, size))}" for _ in range(2)]
        graph.add_edge(*ends, key="P1", property="P1", label="x", role="statement")
    shown = elements(graph)
    assert not touching(shown)
    assert [node["id"] for node in shown["nodes"]] == list(graph)


@given(st.text())
def test_embedded_data_cannot_end_its_element(text: str) -> None:
    written = embeddable({"label": text, "other": "</script><!--<script>\u2028"})
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written)["label"] == text


def test_page_escapes_labels(cache: WikidataCache) -> None:
    graph = cache.subgraph(LEBRON)
    graph.nodes["Q36159"]["label"] = "<b>&'\"</title><script>"
    for text in (page(graph), mimebundle(graph)["text/html"]):
        assert "<b>&" not in text and "</title><script>" not in text


def test_page_of_an_empty_graph_is_refused(cache: WikidataCache) -> None:
    with pytest.raises(BadOptionError, match="empty"):
        page(nx.MultiDiGraph())
    assert "Q9999999" in page(cache.neighbourhood("Q9999999"))


def test_mimebundle_has_a_page_a_drawing_and_text(cache: WikidataCache) -> None:
    graph = cache.subgraph(SPIKE, SubgraphOptions(per_node=5))
    bundle = graph._repr_mimebundle_()
    assert list(bundle) == ["text/html", "image/svg+xml", "text/plain"]
    assert "<svg" in bundle["image/svg+xml"] and "place of birth" in bundle["text/plain"]
    assert list(graph._repr_mimebundle_(include=["text/plain"])) == ["text/plain"]
    assert list(graph._repr_mimebundle_(exclude=["text/html"])) == ["image/svg+xml", "text/plain"]
    # Where frames are stripped, the statements remain, and none of them is a script.
    rest = re.sub(r"<iframe.*?</iframe>", "", bundle["text/html"], flags=re.DOTALL)
    assert '<td dir="auto">place of birth · new</td>' in rest and "Philadelphia" in rest and "script" not in rest


def test_show_outside_a_notebook_opens_a_browser(
    cache: WikidataCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(webbrowser, "open", seen.append)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for static, suffix in ((False, ".html"), (True, ".svg")):
        cache.subgraph(SPIKE, SubgraphOptions(per_node=3)).show(static=static)
        path = Path(seen[-1].removeprefix("file://"))
        assert path.suffix == suffix and "Philadelphia" in path.read_text()


def test_vendored_script_is_the_one_in_the_bill_of_materials() -> None:
    script = (VENDOR / "cytoscape.min.js").read_bytes()
    (part,) = json.loads((VENDOR / "sbom.cdx.json").read_text())["components"]
    assert part["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(script).hexdigest()}]
    assert f'"{part["version"]}"' in script.decode() and part["purl"] == f"pkg:npm/cytoscape@{part['version']}"
    assert b"</script" not in script
    assert "Permission is hereby granted" in (VENDOR / "LICENSE.cytoscape").read_text()

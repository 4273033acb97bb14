"""The page in a real browser that can reach no host: drawing, mouse, keyboard and search."""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import networkx as nx
import pytest
from PIL import Image

from tests.wikidata_cache.chromium import BROWSER, Chromium, Page, running
from tests.wikidata_cache.wikidata_helpers import LAKERS, SPIKE
from wikidata_cache import WikidataCache
from wikidata_cache.subgraphs.options import SubgraphOptions
from wikidata_cache.subgraphs.subgraph import Subgraph

pytestmark = BROWSER
Open = Callable[[nx.MultiDiGraph], Page]
DETAILS = "document.getElementById('details').innerText"
HOSTILE = [
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "\"'><svg onload=alert(1)>",
    "{{constructor.constructor('window.hacked=1')()}} ${window.hacked=1} `",
    "]]>--><!--<script>",
    "\u202egnp.exe\u2066\u2069 \u200f",
    "\u2028\u2029\x00\x1b",
    "😀 👩‍👩‍👧 🏳️‍🌈 Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚a̴̵̜̰l̶̢g̴",
    "עברית عربى 漢字 ไทย",
    "&lt;b&gt; &amp; &#x3c;",
    "@@DATA@@ @@SCRIPT@@",
    "x" * 10_000,
    "\udc80 alone",
    "",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with running() as chromium:
        yield chromium


@pytest.fixture
def opened(browser: Chromium, tmp_path: Path) -> Open:
    def open_graph(graph: nx.MultiDiGraph) -> Page:
        path = Subgraph(graph).to_html(tmp_path / "graph.html")
        return browser.opened(path)

    return open_graph


@pytest.fixture
def spike(cache: WikidataCache, opened: Open) -> Page:
    graph = cache.subgraph(SPIKE, SubgraphOptions(per_node=12))
    graph.nodes["Q1345"]["description"] = "largest city in Pennsylvania"
    return opened(graph)


def at(page: Page, node: str) -> tuple[float, float]:
    """Where a node is in the window."""
    position = page.value(
        f"(() => {{ const p = cy.getElementById('{node}').renderedPosition(), b = stage.getBoundingClientRect(); "
        f"return [b.x + p.x, b.y + p.y] }})()"
    )
    return position[0], position[1]


def test_page_draws_every_node_in_its_colour(spike: Page) -> None:
    assert spike.value("cy.nodes().length") == 15  # Spike Hughes, Philadelphia, twelve more, and London
    assert spike.value("cy.edges().length") == 14
    picture = Image.open(BytesIO(spike.picture())).convert("RGB")
    x, y = at(spike, "Q1345")
    box = spike.value("cy.getElementById('Q1345').renderedWidth()")
    assert picture.getpixel((round(x - box / 2 + 8), round(y))) == (0x5F, 0x33, 0x91)  # before the text
    assert len(picture.crop((0, 80, 880, 760)).getcolors(1 << 20)) > 100
    assert spike.value("cy.edges('.edit').style('line-style')") == "solid"
    assert spike.value("cy.edges('.old').style('line-style')") == "dashed"
    assert spike.value("cy.edges('.edit').numericStyle('width') > 3 * cy.edges('.statement').numericStyle('width')")
    assert spike.value(
        "cy.nodes().every(n => n.renderedBoundingBox().x1 >= 0 && n.renderedBoundingBox().x2 <= cy.width())"
    )


def test_page_requests_nothing_and_logs_no_error(spike: Page) -> None:
    spike.click(*at(spike, "Q1345"))
    urls = [event["request"]["url"] for event in spike.happened("Network.requestWillBeSent")]
    assert len(urls) == 1 and urls[0].startswith("file://")
    assert spike.value("performance.getEntriesByType('resource').length") == 0
    assert not spike.happened("Runtime.exceptionThrown")
    assert not spike.happened("Log.entryAdded")


def test_click_selects_and_click_outside_clears(spike: Page) -> None:
    assert "Select an entity" in spike.value(DETAILS)
    spike.click(*at(spike, "Q1345"))
    text = spike.value(DETAILS)
    assert text.startswith("Philadelphia") and "Q1345" in text and "largest city in Pennsylvania" in text
    link = spike.value("document.querySelector('#details a').href")
    assert link == "https://www.wikidata.org/wiki/Q1345"
    assert spike.value("cy.nodes('.chosen').map(n => n.id())") == ["Q1345"]
    assert spike.value("cy.getElementById('_:old').length + cy.getElementById('Q84').hasClass('dim')")
    spike.value("document.querySelector('#details .go').click()")
    assert not spike.value(DETAILS).startswith("Philadelphia")
    corner = spike.value("(() => { const b = stage.getBoundingClientRect(); return [b.x + 6, b.y + 6] })()")
    spike.click(*corner)
    assert "Select an entity" in spike.value(DETAILS)


def test_hover_shows_id_and_description(spike: Page) -> None:
    spike.hover(*at(spike, "Q1345"))
    spike.until("!tip.hidden")
    text = spike.value("tip.innerText")
    assert "Q1345" in text and "largest city in Pennsylvania" in text


def test_search_highlights_by_label_id_and_property(spike: Page) -> None:
    spike.press("/", 191, "/")
    assert spike.value("document.activeElement.id") == "search"
    spike.type("PHILADELPHÍA")
    assert "Q1345" in spike.value("cy.nodes('.hit').map(n => n.id())")
    assert spike.value("cy.getElementById('Q84').hasClass('dim')")
    assert spike.value("found.textContent").startswith("2 entities")  # the city, and its region
    spike.press("Enter", 13)
    assert spike.value(DETAILS).startswith("Philadelphia")
    spike.press("Escape", 27)
    assert spike.value("search.value") == "" and spike.value("cy.elements('.dim').length") == 0
    for text, expected in (("q84", "1 entity"), ("place of birth", "2 statements"), ("no such thing", "0 entities")):
        spike.value(f"search.value = {text!r}, search.dispatchEvent(new Event('input'))")
        assert expected in spike.value("found.textContent")


def test_keyboard_reaches_selects_and_clears(spike: Page) -> None:
    spike.value("search.focus()")
    spike.press("Tab", 9)
    assert spike.value("document.activeElement.id") == "graph"
    assert spike.value("cy.nodes('.focus').map(n => n.data('label'))") == ["Spike Hughes"]
    spike.press("ArrowRight", 39)
    assert spike.value("cy.nodes('.focus').map(n => n.id())") == ["Q1345"]
    assert "largest city" in spike.value("tip.innerText") and "Q1345" in spike.value("byId('live').textContent")
    spike.press("Enter", 13)
    assert "Q1345" in spike.value(DETAILS)
    seen = set()
    for _ in range(15):
        spike.press("PageDown", 34)
        seen.add(spike.value("cy.nodes('.focus').id()"))
    assert len(seen) == 15
    spike.press("Escape", 27)
    assert "Select an entity" in spike.value(DETAILS)


def test_panel_begins_with_the_new_object(spike: Page) -> None:
    text = spike.value(DETAILS)
    assert "Select an entity" in text and "Philadelphia" in text and "NAMED BY (1)" in text
    assert spike.value("cy.elements('.dim').length") == 0


def test_phone_begins_at_the_new_object_without_hints_on_keys(spike: Page) -> None:
    shown = "[...document.querySelectorAll('.keys, .tools > kbd')].map(hint => hint.offsetWidth > 0)"
    assert spike.value(shown) == [True, True]
    spike.show(390)
    spike.call("Page.reload")
    spike.until("innerWidth === 390 && typeof cy === 'object'")
    assert spike.overflow() == 0
    assert spike.value(shown) == [False, False]
    assert spike.value("Math.min(...cy.nodes().map(node => node.data('font'))) * cy.zoom()") >= 9.4
    assert spike.value(
        "(p => Math.abs(p.x - cy.width() / 2) < 2 && Math.abs(p.y - cy.height() / 2) < 2)"
        "(cy.getElementById('Q1345').renderedPosition())"
    )


def test_buttons_zoom_and_fit(spike: Page) -> None:
    before = spike.value("cy.zoom()")
    spike.value("byId('in').click()")
    assert spike.value("cy.zoom()") > before
    spike.value("byId('fit').click()")
    assert spike.value("cy.zoom()") == pytest.approx(before)


def test_table_has_the_statements_of_the_drawing(spike: Page) -> None:
    assert spike.value("document.querySelectorAll('#statements tbody tr').length") == 14
    spike.value("byId('statements').open = true, document.querySelector('#statements [data-node=Q1345]').click()")
    assert "Q1345" in spike.value(DETAILS)


def test_hostile_labels_are_text(opened: Open) -> None:
    graph = nx.MultiDiGraph(
        old_edge={"subject": "Q1", "property": "P1", "object": None, "label": "<b>", "object_label": "</style>"}
    )
    graph.add_node("Q1", label=HOSTILE[0], hop=0, role="subject", description=HOSTILE[0])
    for number, label in enumerate(HOSTILE, start=2):
        graph.add_node(
            f"Q{number}", label=label, hop=1, role="target_new" if number == 2 else "neighbour", description=label
        )
        graph.add_edge(
            "Q1", f"Q{number}", key="P1", property="P1", label=label, role="edit" if number == 2 else "statement"
        )
    page = opened(graph)
    for number in range(1, len(HOSTILE) + 2):
        page.value(
            f"choose(cy.getElementById('Q{number}'), true), showTip(cy.getElementById('Q{number}'), {{x: 1, y: 1}})"
        )
    page.value("showTip(cy.edges()[0], {x: 1, y: 1}), search.value = '<script>', void find()")
    assert page.value("typeof window.hacked") == "undefined"
    assert page.value("document.querySelectorAll('script').length") == 3
    assert page.value("document.querySelectorAll('img, main svg[onload], iframe').length") == 0
    assert page.value("cy.nodes().length") == len(HOSTILE) + 2
    assert not page.happened("Page.javascriptDialogOpening")
    assert not page.happened("Runtime.exceptionThrown")
    assert page.value("document.documentElement.scrollWidth <= innerWidth")  # 10,000 letters push nothing aside


def test_many_edges_hide_their_labels_until_hover(opened: Open) -> None:
    graph = nx.MultiDiGraph()
    graph.add_node("Q1", label="hub", hop=0, role="subject")
    for number in range(2, 92):
        graph.add_node(f"Q{number}", label=f"leaf {number}", hop=1, role="neighbour")
        graph.add_edge("Q1", f"Q{number}", key="P1", property="P1", label="leads to", role="statement")
    page = opened(graph)
    assert page.value("cy.edges().filter(e => e.style('label')).length") == 0
    page.hover(*at(page, "Q40"))
    page.until("cy.edges('.lit').length === 1 && cy.edges('.lit').style('label') === 'leads to'")


def test_statement_about_itself_is_drawn_outside_the_box(opened: Open) -> None:
    graph = nx.MultiDiGraph()
    graph.add_node("Q42", label="Douglas Noël Adams", hop=0, role="subject")
    for number, angle in enumerate(("up", "down"), start=2):
        graph.add_node(f"Q{number}", label=angle, hop=1, role="neighbour")
        graph.add_edge("Q42", f"Q{number}", key="P1", property="P1", label="next to", role="statement")
    for key in ("P50", "P1"):
        graph.add_edge("Q42", "Q42", key=key, property=key, label=f"author {key}", role="statement")
    page = opened(graph)
    beyond = (
        "cy.edges(':loop').map(e => { const b = e.boundingBox({ includeLabels: false }),"
        " n = e.source().boundingBox({ includeLabels: false });"
        " return Math.max(n.x1 - b.x1, b.x2 - n.x2, n.y1 - b.y1, b.y2 - n.y2) })"
    )
    reach = page.value(beyond)
    assert len(reach) == 2 and min(reach) > 20
    assert page.value("cy.edges(':loop').every(e => e.style('label').startsWith('author'))")
    assert "author P50" in page.value("(choose(cy.getElementById('Q42')), byId('details').innerText)")


def test_labels_of_crossing_edges_do_not_overlap(opened: Open) -> None:
    graph = nx.MultiDiGraph()
    for number in range(1, 5):
        graph.add_node(f"Q{number}", label=f"corner {number}", hop=0, role="neighbour")
    for u, v in (("Q1", "Q3"), ("Q2", "Q4")):
        graph.add_edge(u, v, key="P1", property="P1", label="opposite of", role="statement")
    page = opened(graph)
    page.value(
        "void [[0, 0], [400, 0], [400, 300], [0, 300]].forEach(([x, y], i) => cy.nodes()[i].position({ x, y })),"
        "spread()"
    )
    moved = page.value("cy.edges().map(e => Math.hypot(e.data('mx'), e.data('my')))")
    assert min(moved) == 0 and max(moved) > 20
    page.value("void cy.nodes().forEach((n, i) => n.position({ x: 100 * i, y: 0 })), spread()")
    page.value("cy.nodes()[2].position({ x: 110, y: 0 }), spread()")  # too near for the whole name
    assert page.value("cy.edges()[0].data('short')").endswith("…")
    assert page.value("(choose(cy.nodes()[0]), cy.edges()[0].style('label'))") == "opposite of"


def test_large_graph_is_readable_at_its_ends_and_elsewhere_after_zooming(opened: Open) -> None:
    graph = nx.MultiDiGraph()
    graph.add_node("Q1", label="hub", hop=0, role="subject")
    for branch in range(2, 22):
        for leaf in range(20):
            name = f"Q{branch}{leaf:02}" if leaf else f"Q{branch}"
            graph.add_node(name, label=f"item {name}", hop=2 if leaf else 1, role="neighbour")
            graph.add_edge(
                f"Q{branch}" if leaf else "Q1", name, key="P1", property="P1", label="part", role="statement"
            )
    page = opened(graph)
    assert page.value("cy.zoom() * Math.min(...cy.nodes('.s, .near').map(n => n.data('font')))") > 8
    hidden = (
        "cy.nodes('.far').every(n => cy.zoom() * n.numericStyle('font-size') < n.numericStyle('min-zoomed-font-size'))"
    )
    assert page.value(hidden)
    assert (
        page.value(
            "(name(cy.getElementById('Q201')), cy.nodes('.named').map(n => n.numericStyle('font-size'))[0] * cy.zoom())"
        )
        > 11
    )
    page.value("void choose(cy.getElementById('Q201'), true)")
    page.until("!cy.animated() && cy.zoom() > 0.9")
    assert not page.value("(clear(), cy.zoom(3), cy.nodes('.named').length)")
    assert not page.value(hidden)


def test_notebook_frame_draws_in_its_own_origin(cache: WikidataCache, browser: Chromium, tmp_path: Path) -> None:
    path = tmp_path / "notebook.html"
    path.write_text(
        f"<!doctype html><meta charset=utf-8><body>{cache.subgraph(LAKERS, SubgraphOptions(per_node=5))._repr_html_()}"
    )
    page = browser.opened(path)
    assert page.value("document.querySelector('iframe').contentDocument") is None  # another origin
    picture = Image.open(BytesIO(page.picture())).convert("RGB")
    assert (0x5F, 0x33, 0x91) in {colour for _, colour in picture.getcolors(1 << 20)}  # o* is drawn


def test_colours_follow_the_preferred_scheme(spike: Page) -> None:
    shade = "getComputedStyle(document.body).backgroundColor"
    assert spike.value(shade) == "rgb(255, 255, 255)"
    spike.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert spike.value(shade) == "rgb(18, 23, 29)"
    spike.until("cy.getElementById('Q1345').style('background-color') === 'rgb(200,168,244)'")

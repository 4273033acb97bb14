"""The page of an edit run in a real browser, from the disk: nothing is asked for, edits are found and unfolded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kg_edit.reports.report_page import report_page
from tests.kg_edit.reports.test_report_page import SCRIPTS, graph, patch_of, row
from tests.wikidata_cache.chromium import BROWSER, Page, running

pytestmark = BROWSER
SHOWN = "[...document.querySelectorAll('.all tbody tr')].filter(line => !line.hidden).map(line => line.rowIndex)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    names = ["a", "b", "c", "d", "e"]
    rows = [row(name, f"{name} {text}") for name, text in zip(names, [*SCRIPTS, "Rome", "Paris"], strict=True)]
    rows[3] = row("d", "Rome", success=False)
    rows[4] = row("e", "Paris", success=False, right=False)
    path.write_text(report_page(rows, patch_of(names), graphs={name: graph(SCRIPTS[0]) for name in names}))
    with running() as browser:
        yield browser.opened(path)


def test_page_requests_nothing_and_runs_no_text(page: Page) -> None:
    urls = [event["request"]["url"] for event in page.happened("Network.requestWillBeSent")]
    assert len(urls) == 1 and urls[0].startswith("file://")
    assert not page.happened("Runtime.exceptionThrown") and not page.happened("Log.entryAdded")
    assert page.value("window.hacked === undefined && document.images.length === 0")


def test_edits_are_found_and_opened(page: Page) -> None:
    assert page.value(SHOWN) == [1, 2, 3, 4, 5] and not page.value("document.querySelector('.edit').open")
    page.value("document.getElementById('failed').click()")
    assert page.value(SHOWN) == [4, 5]
    page.value("byId('find').value = 'PARIS'; byId('find').dispatchEvent(new Event('input'))")
    assert page.value(SHOWN) == [5] and page.value("byId('count').textContent") == "1 of 5"
    unfolded = "[...document.querySelectorAll('details.edit')].filter(edit => !edit.hidden).map(edit => edit.id)"
    assert page.value(unfolded) == ["edit-5"]
    page.value("document.querySelector('.all tbody tr:nth-child(5) a').click()")
    page.until("byId('edit-5').open")
    page.value("byId('close').click()")
    assert not page.value("byId('edit-5').open")
    page.value("byId('find').value = '', byId('failed').click()")


def test_failed_edit_is_not_green_in_light_or_in_dark(page: Page) -> None:
    colour = "getComputedStyle(badge).color.match(/\\d+/g).map(Number)"
    colours = f"[...document.querySelectorAll('.all .badge')].map(badge => {colour})"
    for scheme in ("light", "dark"):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        assert page.faint() == []
        success, *_, likelier, failed = page.value(colours)
        assert success[1] > max(success[0], success[2]), "green"
        assert all(red > green for red, green, _ in (likelier, failed)), "yellow and red"


def test_bar_is_as_long_as_the_share(page: Page) -> None:
    """Each edit's change has the norm 6, beside a weight of the norm 10."""
    page.value("byId('open').click()")
    bars = page.value(
        "[...document.querySelectorAll('details.edit .meter')]"
        ".map(bar => bar.firstChild.getBoundingClientRect().width / bar.getBoundingClientRect().width)"
    )
    assert bars == pytest.approx([0.6] * 5, abs=0.01)


@pytest.mark.parametrize("width", [390, 700, 1280])
def test_page_is_not_wider_than_the_window(page: Page, width: int) -> None:
    page.show(width)
    page.value("byId('open').click()")
    assert page.overflow() == 0
    scrolled = "[...document.querySelectorAll('.wide')].filter(one => one.scrollWidth > one.clientWidth).length"
    assert page.value(scrolled) == 0 or width == 700  # there a shadow says so
    page.show(1280)


def test_phone_shows_whole_ids_and_a_list_in_place_of_the_drawing(page: Page) -> None:
    shown = "[...document.querySelectorAll('SELECTOR')].map(one => one.offsetWidth > 0)"
    page.show(390)
    assert not any(page.value(shown.replace("SELECTOR", ".drawing")))
    assert all(page.value(shown.replace("SELECTOR", "details.edit[open] .statements")))
    heights = page.value("[...document.querySelectorAll('.edit .id')].map(one => one.offsetHeight)")
    assert max(heights) < 30, "an id is on one line"
    page.show(1280)
    assert not any(page.value(shown.replace("SELECTOR", ".statements")))

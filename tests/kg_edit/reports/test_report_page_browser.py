"""The page of an edit run in a real browser, from the disk: nothing is asked for, edits are found and unfolded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kg_edit.reports.report_page import report_page
from tests.kg_edit.reports.test_report_page import SCRIPTS, graph, patch_of, row
from tests.wikidata_cache.chromium import PROGRAM, Page, running

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(PROGRAM is None, reason="no chromium on this machine (Debian: apt install chromium)"),
]
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
    page.value("document.querySelector('.all tbody tr:nth-child(5) a').click()")
    page.until("byId('edit-5').open")
    page.value("byId('close').click()")
    assert not page.value("byId('edit-5').open")


def test_failed_edit_is_not_green_in_light_or_in_dark(page: Page) -> None:
    colour = "getComputedStyle(badge).color.match(/\\d+/g).map(Number)"
    colours = f"[...document.querySelectorAll('.all .badge')].map(badge => {colour})"
    for scheme in ("light", "dark"):
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        success, *_, likelier, failed = page.value(colours)
        assert success[1] > max(success[0], success[2]), "green"
        assert all(red > green for red, green, _ in (likelier, failed)), "yellow and red"

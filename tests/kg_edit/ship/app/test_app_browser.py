"""The page in a real browser: an edit is made with the keyboard, and read before and after from what is shown."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kg_edit.ship.app.serving import EDIT, Served, served, workshop
from tests.wikidata_cache.chromium import BROWSER, Page, running
from wikidata_cache.errors import UnknownLabelError

pytestmark = BROWSER
DONE = "document.getElementById('status').classList.contains('done')"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The server that the page comes from."""
    with served(workshop(tmp_path_factory.mktemp("kept") / "ledger", steps=30)) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def page(server: Served) -> Iterator[Page]:
    """The page, once it knows what it works with."""
    with running() as browser:
        opened = browser.opened(server.url)
        opened.until("document.getElementById('about').textContent.includes('rome')")
        yield opened


def fill(page: Page, field: str, text: str) -> None:
    page.value(f"document.getElementById('{field}').focus(), document.getElementById('{field}').select()")
    page.type(text)


def texts(page: Page, selector: str) -> list[str]:
    contents: list[str] = page.value(f"[...document.querySelectorAll('{selector}')].map(one => one.textContent)")
    return contents


def percent(value: float) -> str:
    """As a person reads it."""
    if 0 < value < 1e-4:
        return "< 0.01 %"
    return f"{100 * value:.{2 if value < 0.01 else 1}f} %"


def fill_in(page: Page) -> None:
    fill(page, "subject", "LeBron James")
    fill(page, "prompt", "{} plays for the")
    fill(page, "target_new", "Los Angeles Lakers")


def test_page_marks_and_focuses_a_wrong_field(page: Page) -> None:
    fill_in(page)
    fill(page, "prompt", "LeBron James plays for the")
    page.press("Enter", 13, "\r")
    page.until("document.activeElement.id === 'prompt' && document.activeElement.ariaInvalid === 'true'")
    assert "write '{} plays for the'" in texts(page, "#prompt-error")[0]


def test_page_shows_an_edit_before_and_after(page: Page, server: Served) -> None:
    fill_in(page)
    page.value("document.querySelector('.probe').focus()")
    page.type("<b>Dwyane Wade</b> plays for")
    page.value("document.getElementById('target_new').focus()")
    page.press("Enter", 13, "\r")
    page.until(DONE)
    assert texts(page, ".outcome h3") == ["the editLeBron James plays for the", "prompt<b>Dwyane Wade</b> plays for"]
    probes = [{"prompt": "<b>Dwyane Wade</b> plays for"}]
    answer = server.post("/api/try", {**EDIT, "probes": probes})[1]["outcomes"]
    for number, outcome in enumerate(answer, start=1):
        shown = texts(page, f".outcome:nth-child({number}) .pair p")
        assert [text or "(nothing)" for text in (outcome["before"], outcome["after"])] == shown
        (chance,) = outcome["chances"]
        assert texts(page, f".outcome:nth-child({number}) .number") == [percent(chance[x]) for x in ("before", "after")]
    assert answer[0]["before"] != answer[0]["after"]
    assert answer[0]["chances"][0]["before"] < answer[0]["chances"][0]["after"]
    assert texts(page, "#preview") == ["LeBron James plays for the Los Angeles Lakers"]
    assert page.value("document.querySelectorAll('.outcome b').length") == 0  # markup in a prompt is text


def test_page_draws_the_subgraph_in_a_sandboxed_frame(page: Page) -> None:
    page.value("document.getElementById('draw').click()")
    page.until("document.querySelector('#drawing iframe') !== null")
    assert page.value("document.querySelector('#drawing iframe').sandbox.value").startswith("allow-scripts")
    assert "allow-same-origin" not in page.value("document.querySelector('#drawing iframe').sandbox.value")
    assert page.value("document.getElementById('draw').ariaExpanded") == "true"


def test_page_adds_an_edit_to_the_ledger(page: Page) -> None:
    """On a random model an edit may look as if it broke it: the page says so, and asks again."""
    count = "performance.getEntriesByType('resource').filter(one => one.name.endsWith('/api/ledger')).length"
    before = page.value(count)
    click = "document.getElementById('add-edit').click()"
    assert page.value(f"({click}, {click}, document.getElementById('add-edit').ariaDisabled)") == "true"
    page.until("!document.getElementById('problem').hidden || document.querySelectorAll('#entries tbody tr').length")
    page.until("document.getElementById('add-edit').ariaDisabled === null")
    assert page.value(count) == before + 1  # of two clicks
    if texts(page, "#add-edit") == ["Add it anyway"]:
        assert "would break the model" in texts(page, "#problem")[0]
        page.value("document.getElementById('add-edit').click()")
    page.until("document.querySelectorAll('#entries tbody tr').length === 1")
    assert "LeBron James plays for the Los Angeles Lakers" in texts(page, "#entries .fact")[0]
    assert "without the ledger" in texts(page, "#status")[0]
    line = "parseFloat(getComputedStyle(document.querySelector('#entries .name')).lineHeight)"
    page.show(1280)
    assert page.value(f"document.querySelector('#entries .name').clientHeight < 2.5 * {line}")  # an id does not break
    assert "added" in texts(page, "#ledger-status")[0]
    assert not page.value("document.getElementById('on-ledger-field').hidden")


def test_page_labels_every_field_and_loads_nothing_from_outside(page: Page) -> None:
    assert page.value("[...document.querySelectorAll('input')].every(one => one.labels.length > 0)")
    assert page.value("document.getElementById('status').ariaLive") == "polite"
    urls = page.value("performance.getEntriesByType('resource').map(one => new URL(one.name).origin)")
    assert set(urls) == {page.value("location.origin")}
    assert not page.happened("Runtime.exceptionThrown")


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_page_with_a_ledger_is_not_wider_than_the_window(page: Page, width: int) -> None:
    page.show(width)
    assert page.value("document.querySelectorAll('#entries tbody tr').length") == 1
    assert page.overflow() == 0


def test_long_prompt_is_shown_whole(page: Page) -> None:
    hidden = "(one => one.scrollHeight - one.clientHeight)(document.querySelector('.probe'))"
    page.show(1280)
    page.value("document.querySelector('.probe').select()")
    page.type("Dwyane Wade, who was born in Chicago and went to Marquette University, plays for the")
    assert page.value(hidden) <= 0
    page.show(390)
    page.until(f"{hidden} <= 0")
    page.show(1280)


def test_page_removes_an_edit_and_undoes_it(page: Page) -> None:
    state = "document.querySelector('#entries tbody tr').className"
    page.value("document.querySelector('#entries button').click()")
    page.until(f"{state} === 'removed'")
    (name,) = texts(page, "#entries tbody td:first-child")
    assert texts(page, "#ledger-status") == [f"{name}: removed."]
    assert texts(page, "#undo") == [f"Undo the removal of {name}"]
    assert page.value("document.getElementById('on-ledger-field').hidden")
    page.value("document.getElementById('undo').click()")
    page.until(f"{state} === 'active'")
    assert texts(page, "#undo") == [f"Undo the addition of {name}"]


def test_entity_that_the_graph_lacks_is_marked_in_its_field(server: Served, page: Page) -> None:
    """In words of the page: not with options of a command, or with the API's names of fields."""
    with pytest.MonkeyPatch.context() as patch:

        def unknown(*_: object) -> None:
            raise UnknownLabelError("Los Angeles Lakers", "toy.nt")

        patch.setattr(server.workshop.method, "check", unknown)
        fill_in(page)
        page.press("Enter", 13, "\r")
        page.until("document.getElementById('target_new-error').textContent")
    (message,) = texts(page, "#target_new-error")
    assert "give its id as “New object" in message and "--" not in message and "target_new" not in message


def test_page_follows_the_color_scheme(page: Page) -> None:
    shade = "getComputedStyle(document.body).backgroundColor"
    assert page.value(shade) == "rgb(244, 246, 248)"
    assert page.faint() == []
    page.show(1280, "dark")
    assert page.value(shade) == "rgb(14, 19, 24)"
    assert page.faint() == []

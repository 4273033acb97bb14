"""The documentation site builds without a warning, its links lead somewhere, no page asks for anything outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image, ImageStat

from kg_edit.methods import method_names
from tests.pages import DOCS, ROOT
from tests.wikidata_cache.chromium import NO_BROWSER, PROGRAM, Chromium, Page, running

pytestmark = pytest.mark.slow
OUTSIDE = re.compile(r"(?:https?:)?//", re.IGNORECASE)
CODE = ("code", "pre", "script", "style")
LEFT_OVER = re.compile(r"\\[|~*_`]|\*\*\w|\]\([^)]*\)|^\|[ -]|^- ", re.MULTILINE)
IN_STYLES = re.compile(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", re.IGNORECASE)


class Contents(HTMLParser):
    """What a page loads, where it links to, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.components: set[str] = set()
        self.text = ""  # outside of code
        self._code = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._code += tag in CODE
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.components |= {values.get("data-md-component", ""), *values.get("class", "").split()}
        self.loads += [values[name] for name in ("src", "data", "poster", "srcset", "action") if name in values]
        if "href" in values:
            (self.links if tag == "a" else self.loads).append(values["href"])

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in CODE

    def handle_data(self, data: str) -> None:
        self.text += "" if self._code else data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    pytest.importorskip("mkdocs", reason="the extra docs is not installed: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "WARNING" not in process.stderr and "ERROR" not in process.stderr, process.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Contents]:
    contents = {file: Contents(file.read_text(encoding="utf-8")) for file in site.rglob("*.html")}
    assert len(contents) > 30
    return contents


def test_page_loads_nothing_from_another_machine(site: Path, pages: dict[Path, Contents]) -> None:
    outside = {file.name: [load for load in page.loads if OUTSIDE.match(load)] for file, page in pages.items()}
    assert {name: loads for name, loads in outside.items() if loads} == {}
    styled = [file for kind in ("*.css", "*.svg", "*.html") for file in site.rglob(kind)]
    assert [file.name for file in styled if IN_STYLES.search(file.read_text(encoding="utf-8"))] == []
    # what Material's own script asks the net for: a repository's stars, diagrams, maths
    asking = {"source", "mermaid", "arithmatex"}
    assert {file.name: page.components & asking for file, page in pages.items() if page.components & asking} == {}


def test_link_and_anchor_exist(site: Path, pages: dict[Path, Contents]) -> None:
    broken = []
    for file, page in pages.items():
        for link in [*page.links, *page.loads]:
            if re.match(r"[a-z][a-z+.-]*:|//", link):
                continue
            path, _, anchor = unquote(link).partition("#")
            target = (file.parent / path).resolve() if path else file
            target = target / "index.html" if target.is_dir() else target
            missing = not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors)
            if missing and file.name != "404.html":  # its links are of the server's root
                broken.append(f"{file.relative_to(site)}: {link}")
    assert broken == []


def test_page_has_no_unread_markup(pages: dict[Path, Contents]) -> None:
    """What GitHub reads as markup and Python-Markdown does not."""
    unread = {file.name: LEFT_OVER.findall(page.text) for file, page in pages.items()}
    assert {name: marks for name, marks in unread.items() if marks} == {}


def test_formulas_are_typeset(site: Path) -> None:
    written = {page.name: len(page.blocks("math")) for page in DOCS if page.blocks("math")}
    pages = {name: (site / name.removeprefix("docs/")).with_suffix(".html") for name in written}
    shown = {name: page.read_text(encoding="utf-8").count('<div class="math"') for name, page in pages.items()}
    assert written == shown and len(written) > 5


def test_page_of_a_method_has_its_facts_and_settings(site: Path) -> None:
    page = (site / "methods" / "rome.html").read_text(encoding="utf-8")
    assert "arxiv.org/abs/2202.05262" in page and "clamp_norm_factor" in page and "<!-- settings" not in page


def test_reference_has_docstrings_and_settings(site: Path) -> None:
    page = (site / "reference" / "kg_edit.html").read_text(encoding="utf-8")
    assert "Raises:" in page and "what the edited model should predict" in page
    assert 'id="kg_edit.LanguageModel.load"' in page and "kg_edit.Edit.text" in page
    settings = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    assert [name for name in method_names() if f'id="{name}"' not in settings] == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    if PROGRAM is None:
        pytest.skip(NO_BROWSER)
    with running() as chromium:
        yield chromium


def opened(browser: Chromium, file: Path, width: int, scheme: str = "light") -> Page:
    """A page of the site from the disk, as in a new window."""
    page = browser.opened(file)
    page.show(width, scheme)
    page.value("localStorage.clear()")
    page.call("Page.reload")
    page.until(f"innerWidth === {width} && document.readyState === 'complete'")
    return page


def test_search_works_on_a_page_from_the_disk(site: Path, browser: Chromium) -> None:
    page = opened(browser, site / "tutorials" / "first-edit.html", 1280)
    page.value("document.querySelector('.md-search__input').focus()")
    page.type("covariance")
    page.until("document.querySelectorAll('.md-search-result__item').length > 3")
    link = page.value("document.querySelector('.md-search-result__link').href")
    assert link.startswith(site.as_uri())
    assert not page.happened("Runtime.exceptionThrown")


@pytest.mark.parametrize(("text", "name"), [("\uc0ac\uc2e4", "first-hour-ko"), ("\u4e8b\u5b9e", "first-hour-zh")])
def test_search_finds_a_word_of_a_korean_and_of_a_chinese_page(
    text: str, name: str, site: Path, browser: Chromium
) -> None:
    """A Korean word has a particle behind it, and a Chinese one no space around it."""
    page = opened(browser, site / "tutorials" / "first-edit.html", 1280)
    page.value("document.querySelector('.md-search__input').focus()")
    page.type(text)
    page.until("document.querySelectorAll('.md-search-result__item').length > 0")
    links = page.value("[...document.querySelectorAll('.md-search-result__link')].map((link) => link.href).join()")
    assert name in links


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(
    "name",
    ["index", "start", "methods", "methods/rome", "commands", "glame", "closed_form", "results", "reference/kg_edit"],
)
def test_page_is_not_wider_than_the_window(name: str, width: int, site: Path, browser: Chromium) -> None:
    assert opened(browser, site / f"{name}.html", width).overflow() == 0


def test_tables_of_methods_show_all_columns_and_on_a_phone_what_a_method_does(site: Path, browser: Chromium) -> None:
    page = opened(browser, site / "methods.html", 1280)
    cut = "[...document.querySelectorAll('.md-typeset__scrollwrap')].filter(one => one.scrollWidth > one.clientWidth)"
    assert page.value(f"{cut}.length") == 0
    page = opened(browser, site / "methods.html", 390)
    right = "[...document.querySelectorAll('td:nth-child(2)')].map(cell => cell.getBoundingClientRect().right)"
    assert max(page.value(right)) <= 390


def test_comments_of_commands_are_not_cut(site: Path, browser: Chromium) -> None:
    page = opened(browser, site / "commands.html", 1280)
    beyond = "note.getBoundingClientRect().right - note.closest('pre').getBoundingClientRect().right"
    notes = page.value(f"[...document.querySelectorAll('pre .c1')].map(note => {beyond})")
    assert len(notes) > 10 and max(notes) < 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["glame", "methods", "commands", "tutorials/first-edit", "reference/kg_edit"])
def test_text_and_tabs_have_enough_contrast(name: str, scheme: str, site: Path, browser: Chromium) -> None:
    page = opened(browser, site / f"{name}.html", 1280, scheme)
    assert page.value("document.querySelector('.md-tabs__item').offsetWidth") > 0
    assert [text for text in page.faint() if text[1] > 1.2] == [], "1: invisible, until it is pointed at"


@pytest.mark.parametrize("name", ["index", "glame", "speed"])
def test_picture_is_dark_on_a_dark_page(name: str, site: Path, browser: Chromium) -> None:
    means = {}
    for scheme in ("light", "dark"):
        page = opened(browser, site / f"{name}.html", 1280, scheme)
        page.value("document.querySelector('article img').scrollIntoView({ block: 'start', behavior: 'instant' })")
        page.until("document.querySelector('article img').complete")
        box = page.value(
            "(b => [b.left, b.top, b.right, b.bottom])(document.querySelector('article img').getBoundingClientRect())"
        )
        picture = Image.open(BytesIO(page.picture())).convert("L").crop((box[0], box[1] + 60, box[2], min(box[3], 840)))
        means[scheme] = ImageStat.Stat(picture).median[0]
    assert means["light"] > 230 and means["dark"] < 60


def test_llms_txt_names_every_page_that_is_there(site: Path) -> None:
    text = (site / "llms.txt").read_text(encoding="utf-8")
    pages = re.findall(r"^- \[[^]]+\]\(([^)]+)\): \S", text, re.MULTILINE)
    assert {"index.html", "start.html", "glame.html", "patches.html"} <= set(pages)
    assert [page for page in pages if not (site / page).is_file()] == []

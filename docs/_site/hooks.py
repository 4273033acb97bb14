"""What mkdocs does beside its own for the site: pages of the repository, links that lead out of docs/, two dialects.

`CONTRIBUTING.md` and `CHANGELOG.md` become pages. A file of the repository that a page links to, such as a notebook, is
copied into the site under `repository/`, and the link goes there. The pages are written as GitHub reads them; where
Python-Markdown reads something else, it is put into its words.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from jinja2 import Environment
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from kg_edit.methods import find_method, method_names
from kg_edit.methods.overview import settings
from kg_edit.text.display import markdown_table
from kg_edit.version import __version__

SETTINGS = """# Settings of every method

The values of the preset `default`; `--set NAME=VALUE` overrides one. In a terminal: `kg-edit methods NAME`."""
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
COPIES = "repository"
LINK = re.compile(r"(?<=\]\()(\.\./[^)#\s]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show the version in the footer."""
    config.extra["version_shown"] = __version__
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the repository, and the files that are linked."""
    root = Path(config.docs_dir).parent
    for page in files.documentation_pages():
        for link in LINK.findall(page.content_string):
            name = _outside(page.src_uri, link)
            if name and name not in PAGES and not files.get_file_from_path(f"{COPIES}/{name}"):
                files.append(File.generated(config, f"{COPIES}/{name}", abs_src_path=str(root / name)))
    parts = [SETTINGS]
    for method in map(find_method, method_names()):  # the rows are those of the config class's fields
        rows = ([f"`{name}`", f"`{value}`", meaning.replace("|", "\\|")] for name, value, meaning in settings(method))
        parts.append(f"## {method.name}\n\n{markdown_table(('setting', 'default', 'meaning'), rows)}")
    files.append(File.generated(config, "reference/settings.md", content="\n\n".join(parts)))
    for name, address in PAGES.items():
        text = (root / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, address, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that lead out of docs/ go to the page, or the copy, in the site; GitHub's dialect becomes mkdocs' own."""

    def inside(found: re.Match[str]) -> str:
        name = _outside(page.file.src_uri, found[1])
        target = PAGES.get(name, f"{COPIES}/{name}")
        return posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".") if name else found[1]

    return _in_its_words(LINK.sub(inside, markdown))


def on_env(env: Environment, config: MkDocsConfig, files: Files) -> Environment:
    """Add llms.txt: the pages, each with its first sentence, for programs that read the site (https://llmstxt.org)."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", "", "## Pages", ""]
    for file in files.documentation_pages():
        page = file.page
        if page is not None:
            lines.append(f"- [{page.title}]({page.url}): {_first_sentence(page.markdown or '')}")
    files.append(File.generated(config, "llms.txt", content="\n".join(lines) + "\n"))
    return env


def _first_sentence(markdown: str) -> str:
    """Return the first sentence of a page's text: of its first paragraph that is no heading, picture, table or code."""
    for paragraph in markdown.split("\n\n"):
        text = " ".join(paragraph.split())
        if text and text[0] not in "#|<!`:-" and not paragraph.startswith("    "):
            return re.split(r"(?<=[.!?]) ", text, maxsplit=1)[0]
    return ""


def _in_its_words(markdown: str) -> str:
    """Tables within a list are indented by four spaces; of escapes only those that Python-Markdown knows are left."""
    lines = [re.sub(r"^ {2,3}(?=\|)", "    ", line).replace("\\~", "~") for line in markdown.split("\n")]
    return "\n".join(line if line.lstrip().startswith("|") else line.replace("\\|", "|") for line in lines)


def _outside(page: str, link: str) -> str:
    """The file of the repository that a page's link leads to; empty where it stays within docs/."""
    found = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    return found.removeprefix("../") if found.startswith("../") else ""

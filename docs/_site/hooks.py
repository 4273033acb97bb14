"""What mkdocs does beside its own for the site: pages of the repository, links that lead out of docs/, two dialects.

`CONTRIBUTING.md` and `CHANGELOG.md` become pages. A file of the repository that a page links to, such as a notebook, is
copied into the site under `repository/`, and the link goes there. The pages are written as GitHub reads them; where
Python-Markdown reads something else, it is put into its words. Formulas are LaTeX in a block ```` ```math ````, which
GitHub typesets; here they become MathML, which a browser shows without a script. The page of a method
(`docs/methods/NAME.md`) is written by hand but for its facts and settings, which come from the method's class.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.superfences import SuperFencesException

from kg_edit.methods import find_method, method_names
from kg_edit.methods.overview import describe_computation, list_settings
from kg_edit.methods.presets import list_presets
from kg_edit.registry import method_entries
from kg_edit.text.display import markdown_table
from kg_edit.version import __version__

SETTINGS = """# Settings of every method

The values of the preset `default`; `--set NAME=VALUE` overrides one. In a terminal: `kg-edit methods NAME`."""
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
COPIES = "repository"
LANGUAGES = {"-ko": "ko", "-zh": "zh-Hans"}  # by the end of a page's name: what the page is written in
LINK = re.compile(r"(?<=\]\()(\.\./[^)#\s]+)")
MADE = re.compile(r"<!-- (facts|settings): ([a-z-]+) -->")
INTERVAL = re.compile(r"\[([-+\d.]+), ([-+\d.]+)\]")
ARXIV = re.compile(r"(?<=arXiv )(\d{4}\.\d{5})")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show the version in the footer, and typeset the blocks of formulas."""
    config.extra["version_shown"] = __version__
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "math", "class": "math", "format": typeset}]
    return config


def typeset(source: str, *_: Any, **__: Any) -> str:
    """Return the MathML of a formula in LaTeX. A formula wider than the page scrolls.

    latex2mathml knows `align*` but not `aligned`, which is what GitHub wants. It hands on a command that it does not
    know, with its backslash.
    """
    try:
        formula = convert(source.replace("{aligned}", "{align*}"), display="block")
    except Exception as error:
        raise SuperFencesException(f"latex2mathml does not read this formula:\n{source}") from error
    if "\\" in formula:
        raise SuperFencesException(f"latex2mathml does not know a command of this formula:\n{source}")
    return f'<div class="math" tabindex="0">{formula}</div>'


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the repository, and the files that are linked."""
    root = Path(config.docs_dir).parent
    for page in files.documentation_pages():
        for link in LINK.findall(page.content_string):
            name = _outside(page.src_uri, link)
            if name and name not in PAGES and not files.get_file_from_path(f"{COPIES}/{name}"):
                files.append(File.generated(config, f"{COPIES}/{name}", abs_src_path=str(root / name)))
    parts = [SETTINGS]
    for name in method_names():
        parts.append(f"## {name}\n\n{settings_table(name)}")
    files.append(File.generated(config, "reference/settings.md", content="\n\n".join(parts)))
    for name, address in PAGES.items():
        text = (root / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, address, content=text))
    return files


def settings_table(name: str) -> str:
    """Return the settings of a method as a table; the rows are the fields of its config class."""
    rows = []
    for setting, value, meaning in list_settings(find_method(name)):
        rows.append([f"`{setting}`", f"`{value}`", meaning.replace("|", "\\|")])
    return markdown_table(("setting", "default", "meaning"), rows)


def facts_of(name: str) -> str:
    """Return what the registry and the class state about a method, as a table of two columns."""
    entry = method_entries()[name]
    paper = ARXIV.sub(r"[\1](https://arxiv.org/abs/\1)", entry.paper)
    batch = "computed together" if entry.joint else "made one after the other"
    removal = "exactly" if entry.separable else "by computing the others again"
    config = find_method(name).config_class
    presets = [*config.preset_names(), *list_presets(config.published_as or name)]
    trains, layers = describe_computation(find_method(name)).removesuffix(".").split(". ")[1:]
    rows = [
        ["paper", paper.replace("docs/", "").replace("|", "\\|")],
        ["changes", {"adapter": "the output of a layer", "prompt": "the prompt"}.get(entry.changes, entry.changes)],
        ["trains", trains.removeprefix("Trains: ")],
        ["blocks", f"{layers.rpartition(': ')[2]} of the 30 of SmolLM2-135M"],
        ["edits of one call", batch],
        ["one of them is removed", removal],
        ["needs a graph", "yes" if entry.needs_graph else "no"],
        ["takes a paragraph as target", "yes" if entry.takes_text else "no"],
        ["presets", ", ".join(f"`{preset}`" for preset in presets)],
    ]
    return markdown_table((f"`{name}`", ""), rows)


def made(markdown: str) -> str:
    """Put the facts and the settings of a method in the place of their comments."""
    parts = {"facts": facts_of, "settings": settings_table}
    return MADE.sub(lambda found: parts[found[1]](found[2]), markdown)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that lead out of docs/ go to the page, or the copy, in the site; GitHub's dialect becomes mkdocs' own."""

    def inside(found: re.Match[str]) -> str:
        name = _outside(page.file.src_uri, found[1])
        target = PAGES.get(name, f"{COPIES}/{name}")
        return posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".") if name else found[1]

    return made(_in_its_words(LINK.sub(inside, markdown)))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Say the language of a page that is not in English, so that a browser takes the glyphs of that language."""
    for ending, language in LANGUAGES.items():
        if page.file.name.endswith(ending):
            return f'<div lang="{language}">{html}</div>'
    return html


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
    """Tables within a list are indented by four spaces; of escapes only those that Python-Markdown knows are left.

    In a table an interval such as [0.90, 1.00] is kept on one line.
    """
    lines = []
    for line in markdown.split("\n"):
        words = re.sub(r"^ {2,3}(?=\|)", "    ", line).replace("\\~", "~")
        if words.lstrip().startswith("|"):
            lines.append(INTERVAL.sub(r"[\1,&nbsp;\2]", words))
        else:
            lines.append(words.replace("\\|", "|"))
    return "\n".join(lines)


def _outside(page: str, link: str) -> str:
    """The file of the repository that a page's link leads to; empty where it stays within docs/."""
    found = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    return found.removeprefix("../") if found.startswith("../") else ""

"""Show a subgraph in a notebook: the interactive page in a sandboxed frame, and a table for viewers without frames."""

import sys
import tempfile
import webbrowser
from collections.abc import Callable, Collection
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

import networkx as nx

from wikidata_cache.atomic import write_atomically
from wikidata_cache.view.content import graph_content, with_old_edge
from wikidata_cache.view.page import headline, page, statement_rows, subtitle

_FRAME = "width:100%;height:640px;border:1px solid #8884;border-radius:8px;background:#fff"


def html(graph: nx.MultiDiGraph) -> str:
    """Return the interactive page in a sandboxed frame, followed by the statements as a folded table.

    Viewers that strip frames, such as GitHub and untrusted notebooks, show only the table.
    """
    if not len(graph):
        return "<p>An empty subgraph.</p>"
    title = escape(headline(graph))
    source = page(graph).replace("&", "&amp;").replace('"', "&quot;")
    frame = (
        f'<iframe title="{title}" style="{_FRAME}" loading="lazy" '
        f'sandbox="allow-scripts allow-popups allow-popups-to-escape-sandbox" srcdoc="{source}"></iframe>'
    )
    return f"{frame}{_table(graph, title)}"


def _table(graph: nx.MultiDiGraph, title: str) -> str:
    shown = graph_content(with_old_edge(graph))
    rows = statement_rows(shown).replace("<button ", "<span ").replace("</button>", "</span>")
    head = "<tr><th>subject</th><th>property</th><th>object</th><th>ids</th></tr>"
    summary = f"<summary>{title} · {escape(subtitle(graph, shown))}</summary>"
    return f"<details>{summary}<table><thead>{head}</thead><tbody>{rows}</tbody></table></details>"


def mimebundle(
    graph: nx.MultiDiGraph, *, include: Collection[str] | None = None, exclude: Collection[str] | None = None
) -> dict[str, str]:
    """Return {MIME type: content}: the page, the drawing as SVG, and a line of text; the notebook front end chooses."""
    from wikidata_cache.view.static import svg

    makers: dict[str, Callable[[], str]] = {
        "text/html": lambda: html(graph),
        "image/svg+xml": lambda: svg(graph),
        "text/plain": lambda: f"{headline(graph)} ({subtitle(graph, graph_content(with_old_edge(graph)))})",
    }
    wanted = set(include or makers) - set(exclude or ())
    if not len(graph):
        return {"text/plain": "An empty subgraph."}
    return {kind: make() for kind, make in makers.items() if kind in wanted}


def show(graph: nx.MultiDiGraph, *, static: bool = False) -> None:
    """Show a graph in the running notebook, or else in a browser, from a temporary file."""
    kind = "image/svg+xml" if static else "text/html"
    if _is_notebook():
        bundle = mimebundle(graph, include=[kind, "text/plain"])
        display: Any = import_module("IPython.display").display
        display(bundle, raw=True)
        return
    from wikidata_cache.view.static import svg

    text, suffix = (svg(graph), ".svg") if static else (page(graph), ".html")
    path = Path(tempfile.mkdtemp(prefix="subgraph-")) / f"graph{suffix}"
    webbrowser.open(write_atomically(path, text).as_uri())


def _is_notebook() -> bool:
    """Return whether an IPython kernel runs this process; IPython itself is not imported for this."""
    get_shell: Callable[[], object] | None = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_shell is not None and hasattr(get_shell(), "kernel")

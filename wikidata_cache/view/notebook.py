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

from kg_common.atomic import write_atomically
from wikidata_cache.view.content import graph_content, with_old_edge
from wikidata_cache.view.page import headline, page, statement_rows, subtitle
from wikidata_cache.view.svg import svg

_FRAME = "width:100%;height:640px;border:1px solid #8884;border-radius:8px;background:#fff"
_KINDS = ("text/html", "image/svg+xml", "text/plain")
_COLUMN = 800.0  # pixels: a column of a notebook; some viewers cut off wider pictures


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
    content = graph_content(with_old_edge(graph))
    # Without the page's script, a button would do nothing.
    rows = statement_rows(content).replace("<button ", "<span ").replace("</button>", "</span>")
    head = "<tr><th>subject</th><th>property</th><th>object</th><th>ids</th></tr>"
    summary = f"<summary>{title} · {escape(subtitle(graph, content))}</summary>"
    return f"{frame}<details>{summary}<table><thead>{head}</thead><tbody>{rows}</tbody></table></details>"


def mimebundle(
    graph: nx.MultiDiGraph, *, include: Collection[str] | None = None, exclude: Collection[str] | None = None
) -> dict[str, str]:
    """Return {MIME type: content}: the page, the drawing as SVG, and a line of text; the notebook front end chooses."""
    if not len(graph):
        return {"text/plain": "An empty subgraph."}
    kinds = set(include or _KINDS) - set(exclude or ())
    bundle = {}
    if "text/html" in kinds:
        bundle["text/html"] = html(graph)
    if "image/svg+xml" in kinds:
        bundle["image/svg+xml"] = svg(graph, widest=_COLUMN)
    if "text/plain" in kinds:
        bundle["text/plain"] = f"{headline(graph)} ({subtitle(graph, graph_content(with_old_edge(graph)))})"
    return bundle


def show(graph: nx.MultiDiGraph, *, static: bool = False) -> None:
    """Show the page (or with `static` the drawing) in the running notebook, or else in a browser, from a file."""
    # `IPython` is not imported for this question: where a kernel runs this process, it is imported already.
    get_shell: Callable[[], object] | None = getattr(sys.modules.get("IPython"), "get_ipython", None)
    if get_shell is not None and hasattr(get_shell(), "kernel"):
        picture = "text/html"
        if static:
            picture = "image/svg+xml"
        bundle = mimebundle(graph, include=[picture, "text/plain"])
        display: Any = import_module("IPython.display").display
        display(bundle, raw=True)
        return
    folder = Path(tempfile.mkdtemp(prefix="subgraph-"))
    if static:
        path = write_atomically(folder / "graph.svg", svg(graph))
    else:
        path = write_atomically(folder / "graph.html", page(graph))
    webbrowser.open(path.as_uri())

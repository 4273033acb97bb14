"""Draw a static picture of a small subgraph, as SVG or PNG, with matplotlib: the tree of `wikidata_cache.view.tree`.

Lengths are inches, so that a picture grows with its graph. A web page shrinks a wide SVG to its own width.
"""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import Any

import networkx as nx
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve

from wikidata_cache.atomic import write_atomically
from wikidata_cache.errors import BadOptionError
from wikidata_cache.view.content import printable, with_old_edge
from wikidata_cache.view.tree import BOX_HEIGHT, DrawnNode, lay_out, text_width

_COLOURS = {  # role of a node: (box colour, text colour, name in the legend)
    "subject": ("#1b4965", "white", "subject s"),
    "target_new": ("#6a3d9a", "white", "new object o*"),
    "target_true": ("#b23a48", "white", "old object o"),
    "neighbour": ("#e9eef2", "#1d2a33", "neighbour"),
}
_LINE, _PROPERTY = "#9aa7b1", "#55636e"
_LINES: Any = {  # role of an edge: style of its line; "statement" is the plain line
    "edit": {"color": "#6a3d9a", "lw": 2.4, "zorder": 2},
    "old": {"color": "#b23a48", "lw": 1.4, "zorder": 2, "ls": (0, (4, 3))},
    "statement": {"color": _LINE, "lw": 0.9, "zorder": 1},
}
_FOOT = 0.4  # inches for the legend
_COLUMN = 600.0  # points (800 pixels): widest SVG in a notebook
_SIZE = re.compile(r'width="([\d.]+)pt" height="([\d.]+)pt"')
# Labels can have any characters, so mathtext and TeX are off. Text stays text in SVG: viewers know more scripts.
_STYLE: Any = {
    "text.usetex": False,
    "text.parse_math": False,
    "svg.hashsalt": "wikidata_cache",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
}


def draw(graph: nx.MultiDiGraph, path: str | Path, *, title: str | None = None) -> Path:
    """Draw a subgraph from left to right, and return the path of the file.

    The suffix chooses SVG or PNG (150 dots per inch). The same graph gives the same file. The picture suits up to about
    forty nodes, since each leaf takes its own line. A node that is drawn several times is only outlined from the second
    time on.

    Raises BadOptionError for another suffix or an empty graph.
    """
    path = Path(path)
    if path.suffix.lower() not in (".svg", ".png"):
        raise BadOptionError(f"{path}: expected a name ending in .svg or .png.")
    if not len(graph):
        raise BadOptionError("The graph is empty; there is nothing to draw.")
    return write_atomically(path, _picture(graph, title, path.suffix.lower()[1:]))


def svg(graph: nx.MultiDiGraph) -> str:
    """Return the drawing as SVG text for a notebook, at most as wide as a column: some viewers cut off wider pictures.

    Raises BadOptionError for an empty graph.
    """
    if not len(graph):
        raise BadOptionError("The graph is empty; there is nothing to draw.")
    return _SIZE.sub(_fitted, _picture(graph, None, "svg").decode(), count=1)


def _fitted(size: re.Match[str]) -> str:
    """Return the SVG's width and height, scaled to at most `_COLUMN` points of width (the viewBox scales the rest)."""
    width, height = map(float, size.groups())
    factor = min(1.0, _COLUMN / width)
    return f'width="{factor * width:.2f}pt" height="{factor * height:.2f}pt"'


def _picture(graph: nx.MultiDiGraph, title: str | None, kind: str) -> bytes:
    file = io.BytesIO()
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
        _figure(graph, title).savefig(file, format=kind, dpi=150, metadata=metadata)
    if kind == "png":
        return file.getvalue()
    # A page, for example a notebook, would cut off a picture that is wider than its column.
    return file.getvalue().replace(b"<svg ", b'<svg style="max-width: 100%; height: auto" ', 1)


def _figure(graph: nx.MultiDiGraph, title: str | None) -> Figure:
    places, (width, height) = lay_out(with_old_edge(graph))
    marks, title = _marks(places), printable(title or "", longest=120)
    words = text_width(title, bold=True) * 11 / 9 + 0.5, sum(0.6 + text_width(str(mark.get_label())) for mark in marks)
    width, height = max(width, *words), height + _FOOT + (0.35 if title else 0.0)
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(-_FOOT, height - _FOOT)  # data units are inches, counted from the bottom
    for place in places:
        if place.parent is not None:
            _draw_edge(axes, place, place.parent)
        _draw_node(axes, place)
    if title:
        axes.text(0.25, height - _FOOT - 0.3, title, fontsize=11, weight="bold")
    axes.legend(handles=marks, loc="lower left", ncols=len(marks), frameon=False, fontsize=8)
    return figure


def _draw_node(axes: Axes, place: DrawnNode) -> None:
    face, ink, _ = _COLOURS[place.role]
    if place.again:
        outline = _LINE if place.role == "neighbour" else face
        colours, ink = {"fc": "white", "ec": outline, "ls": (0, (3, 2))}, outline
        ink = ink if place.role != "neighbour" else _PROPERTY
    else:
        colours = {"fc": face, "ec": "none"}
    corner = (place.left, place.y - BOX_HEIGHT / 2)
    style: Any = {"boxstyle": "round,pad=0,rounding_size=0.08", "zorder": 3, "lw": 0.9, **colours}
    axes.add_patch(FancyBboxPatch(corner, place.width, BOX_HEIGHT, **style))
    weight = "normal" if place.role == "neighbour" else "bold"
    at = place.left + place.width / 2, place.y
    axes.text(*at, place.text, color=ink, weight=weight, ha="center", va="center_baseline", zorder=4)


def _draw_edge(axes: Axes, place: DrawnNode, parent: DrawnNode) -> None:
    """Draw an edge: from the parent out of its column, a bend to the line of `place`, then straight to its node."""
    is_edit, is_plain = place.edge_role == "edit", place.edge_role not in ("edit", "old")
    start, end = place.bend
    middle = (start + end) / 2
    bend = [(start, parent.y), (middle, parent.y), (middle, place.y), (end, place.y)]
    points = [(parent.left + parent.width, parent.y), *bend, (place.left, place.y)]
    codes = [Curve.MOVETO, Curve.LINETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4, Curve.LINETO]
    line = _LINES["statement" if is_plain else place.edge_role]
    style = {"arrowstyle": "-|>", "mutation_scale": 7 if is_plain else 11, "fill": False, "shrinkB": 0, **line}
    axes.add_patch(FancyArrowPatch(path=Curve(points, codes), **style))
    text: Any = {"style": "italic", "color": _PROPERTY} if is_plain else {"color": line["color"]}
    box = {"boxstyle": "round,pad=0.12", "fc": "white", "ec": "none"}
    at, weight = (place.label_x, place.y), "bold" if is_edit else "normal"
    axes.text(*at, place.edge_text, ha="center", va="center", fontsize=8, weight=weight, bbox=box, zorder=2.5, **text)


def _marks(places: list[DrawnNode]) -> list[Line2D]:
    """Return the entries of the legend: a sign and a name for each kind of node and edge in the picture."""
    roles = {place.role for place in places}
    dot: Any = {"marker": "o", "ls": "", "ms": 8}
    marks = [
        Line2D([], [], mfc=face, mec=_LINE if role == "neighbour" else face, label=name, **dot)
        for role, (face, _, name) in _COLOURS.items()
        if role in roles
    ]
    for role, name in (("edit", "the edit"), ("old", "what it replaces")):
        if any(place.edge_role == role for place in places):
            line = {key: value for key, value in _LINES[role].items() if key != "zorder"}
            marks.append(Line2D([], [], label=name, **line))
    if any(place.again for place in places):
        marks.append(Line2D([], [], mfc="white", mec=_PROPERTY, label="drawn above or below too", **dot))
    return marks

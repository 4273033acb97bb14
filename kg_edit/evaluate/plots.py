"""Pictures as files that are the same, byte for byte, whenever they are drawn."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kg_edit.errors import OutputError
from kg_edit.evaluate.metrics.catalogue import CATALOGUE
from kg_edit.storage.atomic import replacing

COLOURS = ("#1b6ca8", "#d1495b", "#2e8b57", "#8e5ea2", "#e08e1b", "#4d4d4d")
_FORMATS = (".png", ".svg", ".pdf")


def is_share(metric: str) -> bool:
    """Whether a metric lies between 0 and 1, so that it can stand on one axis with others."""
    known = CATALOGUE.get(metric)
    return known is None or known.values == "0 to 1"


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, which no window and no global state knows of."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def save_figure(made: Figure, path: Path) -> Path:
    """Write a figure as PNG, SVG or PDF, atomically.

    Raises:
        OutputError: the file can't be written, or its ending names no such format.
    """
    kind = path.suffix.casefold()
    if kind not in _FORMATS:
        raise OutputError(f"can't draw {path}: its ending is none of {', '.join(_FORMATS)}; choose one of them")
    stamp = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {"Software": None}}[kind]
    with replacing(path) as scratch, rc_context({"svg.hashsalt": "kg-edit", "svg.fonttype": "none"}):
        made.savefig(scratch, format=kind[1:], dpi=150, metadata=stamp)
    return path

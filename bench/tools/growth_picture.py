"""The picture of `bench/growth.py`: time and memory against each curve's number, on logarithmic axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

_PANELS = {
    "size": ("One ROME edit, with its C", "parameters of the model"),
    "edits": ("Edits of a small model", "edits"),
    "tokens": ("C of one layer, SmolLM2-135M", "tokens of text"),
    "degree": ("Subgraph of one edit", "statements of o*"),
}
Row = Mapping[str, Any]


def draw(rows: Sequence[Row], path: Path) -> None:
    """Four panels: processor seconds on the left axis, MB on the right one."""
    figure, panels = pyplot.subplots(2, 2, figsize=(12, 8.5), layout="constrained")
    for panel, (curve, (title, number)) in zip(panels.flat, _PANELS.items(), strict=True):
        curve_rows = [row for row in rows if row["curve"] == curve]
        other = panel.twinx()
        _axes(panel, title, number, "processor time, s (solid, filled)")
        other.set_yscale("log")
        other.set_ylabel("memory, MB (dashed, hollow)")
        for index, method in enumerate(dict.fromkeys(row.get("method", "") for row in curve_rows)):
            _lines(panel, other, [row for row in curve_rows if row.get("method", "") == method], method, f"C{index}")
        if curve_rows:
            panel.legend(fontsize="small", loc="upper left")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _axes(panel: Axes, title: str, number: str, label: str) -> None:
    panel.set(title=title, xlabel=number, ylabel=label, xscale="log", yscale="log")
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.grid(visible=True, which="major", alpha=0.3)


def _lines(panel: Axes, other: Axes, rows: Sequence[Row], method: str, colour: str) -> None:
    """One method's seconds and memory: above the model's for edits and statements, of the whole process elsewhere."""
    numbers = [row["n"] for row in rows]
    panel.plot(numbers, [row["seconds"] for row in rows], f"{colour}o-", label=method or "measured")
    memory = "peak_mb" if rows[0]["curve"] == "size" else "above_mb"
    other.plot(numbers, [max(row[memory], 0.1) for row in rows], f"{colour}s--", fillstyle="none")

"""Draw the table of a hundred single edits: for each editor what is said, what is carried over, and what stays.

    python pipelines/draw_single_edits.py                      # docs/single_edits.md -> docs/single_edits.svg

The numbers are read from the page, so the picture is drawn again whenever the table has changed.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes

from kg_edit.evaluate.plots import COLOURS, figure, save_figure

DOCS = Path(__file__).resolve().parents[1] / "docs"
PANELS = {2: "the edit, said", 3: "a paraphrase", 4: "neighbours that stay"}  # by the table's column
_CELL = re.compile(r"(\d?\.\d+)(?: \[(\d?\.\d+), (\d?\.\d+)\])?")


class Value(NamedTuple):
    """A mean with the ends of its interval."""

    mean: float
    low: float
    high: float


class Row(NamedTuple):
    """An editor and its values, by column of the table."""

    name: str
    values: dict[int, Value]


def rows(page: str) -> Iterator[Row]:
    """The rows of the page's first table that have all records; rows in italics have fewer."""
    lines = page[page.index("\n| |") :].strip().splitlines()
    for line in lines[2 : next(n for n, line in enumerate([*lines, ""]) if not line.startswith("|"))]:
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not cells[0].startswith("*"):
            yield Row(cells[0].replace("`", ""), {column: value(cells[column]) for column in PANELS})


def value(cell: str) -> Value:
    """The numbers of a cell such as ".97 [.93, 1.00]"; without an interval all three are the mean."""
    found = _CELL.fullmatch(cell)
    if not found:
        raise ValueError(f"{cell!r} is not a mean with an interval")
    mean, low, high = found.groups()
    return Value(float(mean), float(low or mean), float(high or mean))


def draw(table: Sequence[Row], path: Path) -> Path:
    """One panel for each column; the dashed line is the unedited model."""
    unedited, *editors = table
    with rc_context({"svg.hashsalt": "single edits", "font.size": 8}):
        made = figure(8.0, 0.17 * len(editors) + 0.8)
        panels = made.subplots(1, len(PANELS), sharey=True)
        for axes, (column, title), colour in zip(panels, PANELS.items(), COLOURS, strict=False):
            _panel(axes, [row.values[column] for row in editors], colour)
            axes.axvline(unedited.values[column].mean, color="#888888", linestyle="--", linewidth=0.8)
            axes.set_title(title, fontsize=9)
        panels[0].set_yticks(range(len(editors)), [row.name for row in editors])
        panels[0].set_ylim(len(editors) - 0.5, -0.5)
        return save_figure(made, path)


def _panel(axes: Axes, values: Sequence[Value], colour: str) -> None:
    places = range(len(values))
    axes.hlines(places, [found.low for found in values], [found.high for found in values], color=colour, linewidth=1)
    axes.plot([found.mean for found in values], places, "o", color=colour, markersize=3.5)
    axes.set_xlim(-0.03, 1.03)
    axes.grid(axis="y", linewidth=0.3, color="#dddddd")


def main(given: Sequence[str] | None = None) -> None:
    """Read the page and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, default=DOCS / "single_edits.md", help="the page with the table")
    parser.add_argument("--out", type=Path, default=DOCS / "single_edits.svg", help="the picture")
    options = parser.parse_args(given)
    draw(list(rows(options.page.read_text(encoding="utf-8"))), options.out)


if __name__ == "__main__":
    main()

"""Draw the table of a hundred single edits: for each editor success, paraphrases and neighbours.

python studies/draw_single_edits.py                      # results/counterfact_plus.csv -> docs/single_edits.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from tables import ROOT, Number, Results

from kg_edit.evaluation.plots import COLOURS, figure, save_figure

PANELS = {"efficacy, greedy": "success", "paraphrase": "a paraphrase", "neighborhood": "neighbours unchanged"}


def select_rows(numbers: Sequence[Number]) -> dict[str, dict[str, Number]]:
    """Return {row: {metric: number}} of the rows that have all records and all panels."""
    rows: dict[str, dict[str, Number]] = {}
    for number in numbers:
        if number.metric in PANELS and number.n == numbers[0].n:
            rows.setdefault(number.row, {})[number.metric] = number
    return rows


def draw(rows: dict[str, dict[str, Number]], path: Path) -> Path:
    """Draw a panel for each metric: mean and 95 % interval; the dashed line is the unedited model."""
    unedited = rows["unedited"]
    names = [name for name in rows if name != "unedited"]
    with rc_context({"svg.hashsalt": "single edits", "font.size": 8}):
        picture = figure(8.0, 0.17 * len(names) + 0.8)
        panels = picture.subplots(1, len(PANELS), sharey=True)
        for axes, (metric, title), colour in zip(panels, PANELS.items(), COLOURS, strict=False):
            for row, name in enumerate(names):
                number = rows[name][metric]
                mean = float(number.mean)
                low = float(number.low or mean)  # the bootstrap has no interval if all edits succeeded, or none did
                high = float(number.high or mean)
                axes.hlines(row, low, high, color=colour, linewidth=1)
                axes.plot(mean, row, "o", color=colour, markersize=3.5)
            axes.axvline(float(unedited[metric].mean), color="#888888", linestyle="--", linewidth=0.8)
            axes.set_xlim(-0.03, 1.03)
            axes.grid(axis="y", linewidth=0.3, color="#dddddd")
            axes.set_title(title, fontsize=9)
        panels[0].set_yticks(range(len(names)), names)
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        return save_figure(picture, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the numbers and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "single_edits.svg", help="the picture")
    options = parser.parse_args(arguments)
    rows = select_rows(Results().tables["single"])
    draw(rows, options.out)


if __name__ == "__main__":
    main()

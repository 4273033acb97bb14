"""Draw how many edits last: the share that the model generates after 100, 200 and 300 edits, one after the other.

python studies/draw_lasting.py                           # results/many_edits.csv -> docs/pictures/gallery/lasting.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from tables import ROOT, Number, Results

from kg_edit.evaluation.plots import COLOURS, figure, save_figure

METHODS = ("grace", "alphaedit", "memit", "rome", "ft-m")  # those that were scored at all three points
POINTS = (100, 200, 300)
PICTURE = ROOT / "docs" / "pictures" / "gallery" / "lasting.svg"


def points_of(results: Results, method: str) -> list[Number]:
    """Return the numbers of a method after each count of edits; closed forms without `remember`."""
    return [results.number("sequence-300", f"{method}, {count} edits", "efficacy, greedy") for count in POINTS]


def draw(results: Results, path: Path) -> Path:
    """Draw a line for each method, with its 95 % intervals."""
    with rc_context({"svg.hashsalt": "lasting", "font.size": 10}):
        picture = figure(6.4, 3.4)
        axes = picture.subplots()
        for method, colour in zip(METHODS, COLOURS, strict=False):
            numbers = points_of(results, method)
            means = [float(number.mean) for number in numbers]
            axes.plot(POINTS, means, "o-", color=colour, label=method, linewidth=1.5, markersize=4)
            for count, number in zip(POINTS, numbers, strict=True):
                if number.low:  # equal values have no interval
                    axes.vlines(count, float(number.low), float(number.high), color=colour, linewidth=1)
        axes.set_ylim(-0.02, 1.04)
        axes.set_xticks(POINTS)
        axes.set_xlabel("edits, one after the other in one model")
        axes.set_ylabel("share that is generated")
        axes.grid(axis="y", linewidth=0.3, color="#dddddd")
        axes.legend(frameon=False, loc="lower left")
        return save_figure(picture, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the numbers and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURE, help="the picture")
    draw(Results(), parser.parse_args(arguments).out)


if __name__ == "__main__":
    main()

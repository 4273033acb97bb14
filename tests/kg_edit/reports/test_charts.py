"""Charts in a page: round numbers at the axes, lines that break where a number is none, texts that stay texts."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree as ET

import pytest

from kg_edit.reports.charts import HEIGHT, WIDTH, line_chart, sparkline, ticks


@pytest.mark.parametrize(
    ("most", "whole", "expected"),
    [
        (8.8, False, [0, 2, 4, 6, 8, 10]),
        (0.74, False, [0, 0.2, 0.4, 0.6, 0.8]),
        (19.0, True, [0, 5, 10, 15, 20]),
        (2.0, True, [0, 1, 2]),
        (0.0, True, [0, 1]),
        (math.inf, False, [0, 1]),
    ],
)
def test_ticks_are_round(most: float, whole: bool, expected: list[float]) -> None:
    assert ticks(most, whole_numbers=whole) == pytest.approx(expected)


def chart(**lines: list[tuple[float, float]]) -> str:
    return line_chart(
        {name.replace("_", "<"): line for name, line in lines.items()}, title="a<b", x_label="x", y_label="y"
    )


def test_line_chart_has_all_points_inside_and_breaks_at_nan() -> None:
    html = chart(a_b=[(0, 5.0), (1, math.nan), (2, 1.0), (3, 0.0)], c=[(0, math.inf)])
    (path,) = re.findall(r'class="line line-0" d="([^"]+)"', html)
    assert path.count("M") == 2 and path.count("L") == 1
    points = [tuple(map(float, point)) for point in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in points)
    assert points[0][1] < points[1][1] < points[2][1]  # less is lower
    svg = ET.fromstring(html[html.index("<svg") :])  # noqa: S314
    assert svg.findtext("title") == "a<b" and "<legend" not in html
    assert ">a&lt;b<" in html and ">c<" not in html, "the legend is HTML, and names what is drawn"


def test_chart_without_numbers_is_empty() -> None:
    assert chart(a=[(0, math.nan)]) == chart() == sparkline([1.0]) == sparkline([math.nan, 1.0]) == ""
    assert sparkline([2.0, 1.0, 0.0]).count(",") == 3
    assert "<title>3 to 1</title>" in sparkline([math.nan, 3.0, 1.0, math.inf])

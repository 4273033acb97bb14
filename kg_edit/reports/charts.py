"""Line charts as SVG for an HTML page: a few hundred bytes a line, coloured by the page's style sheet.

A line has a class by its position (``line-0``, ``line-1``, … in the given order). The legend is HTML above the chart,
so it covers nothing. Every text is escaped. Numbers that are not finite are left out; in a `line_chart` they break the
line, and a `sparkline` goes on over them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape

# Pixels: the picture, and its margins, in which the numbers and the names of the axes are
WIDTH = 520
HEIGHT = 230
_LEFT = 52
_RIGHT = 12
_TOP = 10
_BOTTOM = 36
_SPARK = (84, 22)  # width and height of a `sparkline`
_FEW = 40  # lines with at most this many points also have dots
_TICKS = 5  # steps on an axis, about; the numbers of more steps would be too close to each other

Point = tuple[float, float]


def line_chart(lines: Mapping[str, Sequence[Point]], *, title: str, x_label: str, y_label: str) -> str:
    """Return a chart of lines of points (x, y), from y = 0 on, with numbers on both axes; "" if no y is finite."""
    points = list[Point]()
    for line in lines.values():
        points += _finite_points(line)
    if not points:
        return ""
    x_ticks = ticks(max(x for x, _ in points), whole_numbers=True)
    y_ticks = ticks(max(y for _, y in points))
    scale = _Scale(x_ticks[-1], y_ticks[-1])
    parts = [*_axes(x_ticks, y_ticks, scale, x_label, y_label)]
    legend = ""
    for number, (name, line) in enumerate(lines.items()):
        parts.append(f'<path class="line line-{number}" d="{_path(line, scale)}"/>')
        parts += _dots(number, line, scale)
        if _finite_points(line):
            legend += f'<span class="key line-{number}">{escape(name)}</span>'
    head = f'<svg class="chart" role="img" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
    return f'<p class="keys">{legend}</p>{head}<title>{escape(title)}</title>{"".join(parts)}</svg>'


def _finite_points(line: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in line if math.isfinite(y)]


def sparkline(values: Sequence[float]) -> str:
    """Return a line chart of a word's size, from 0 to the largest value; "" if fewer than two numbers are finite."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    width, height = _SPARK
    top = max(max(finite), 1e-12)
    points = []
    for index, value in enumerate(values):
        if math.isfinite(value):  # with a margin of two pixels
            x = 2 + (width - 4) * index / (len(values) - 1)
            y = height - 2 - (height - 4) * max(value, 0) / top
            points.append(f"{x:.1f},{y:.1f}")
    line = " ".join(points)
    ends = f"{finite[0]:.2g} to {finite[-1]:.2g}"
    return (
        f'<svg class="spark" role="img" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f'<title>{ends}</title><polyline points="{line}"/></svg>'
    )


def ticks(most: float, *, whole_numbers: bool = False) -> list[float]:
    """Return about five round numbers, from 0 to the first one that is at least ``most``."""
    if most <= 0 or not math.isfinite(most):
        return [0.0, 1.0]
    # The smallest of 1, 2, 2.5, 5 and 10 times a power of ten that is at least the rough step
    rough = most / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    round_steps = [factor * power for factor in (1, 2, 2.5, 5, 10)]
    # The factor 0.999 keeps a step that only rounding makes smaller than ``rough``; without it the next one is taken.
    step = min(step for step in round_steps if step >= rough * 0.999)
    if whole_numbers:
        step = max(1.0, float(round(step)))  # 2.5 becomes 2, and a step below one becomes one
    # The quotient may be rounded to a little more than a whole number; without 1e-9 that would add a step.
    steps = math.ceil(most / step - 1e-9)
    return [step * number for number in range(steps + 1)]


class _Scale:
    """Converts a chart's numbers to pixels; the axes end at the numbers ``x_end`` and ``y_end``."""

    def __init__(self, x_end: float, y_end: float) -> None:
        self._x_end = x_end  # more than 0, as the last of `ticks` is
        self._y_end = y_end

    def x(self, value: float) -> float:
        """Return the pixels from the left."""
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * value / self._x_end

    def y(self, value: float) -> float:
        """Return the pixels from the top."""
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * max(value, 0.0) / self._y_end


def _axes(
    x_ticks: Sequence[float], y_ticks: Sequence[float], scale: _Scale, x_label: str, y_label: str
) -> Iterator[str]:
    """Yield the lines, numbers and names of both axes."""
    for value in y_ticks:
        y = scale.y(value)
        yield f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>'
        yield f'<text class="tick y" x="{_LEFT - 6}" y="{y:.1f}">{value:g}</text>'
    for value in x_ticks:
        yield f'<text class="tick x" x="{scale.x(value):.1f}" y="{HEIGHT - _BOTTOM + 14}">{value:g}</text>'
    middle = _TOP + (HEIGHT - _TOP - _BOTTOM) / 2
    yield f'<text class="name x" x="{_LEFT + (WIDTH - _LEFT - _RIGHT) / 2}" y="{HEIGHT - 5}">{escape(x_label)}</text>'
    yield f'<text class="name y" transform="translate(10 {middle:.1f}) rotate(-90)">{escape(y_label)}</text>'


def _path(line: Sequence[Point], scale: _Scale) -> str:
    """Return the SVG path of a line, which starts again after a number that is not finite."""
    parts = []
    pen = "M"
    for x, y in line:
        if math.isfinite(y):
            parts.append(f"{pen}{scale.x(x):.1f} {scale.y(y):.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)


def _dots(number: int, line: Sequence[Point], scale: _Scale) -> Iterator[str]:
    """Yield a dot for each point of a short line; its tooltip has the numbers."""
    if len(line) > _FEW:
        return
    for x, y in _finite_points(line):
        at = f'cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}"'
        yield f'<circle class="line-{number}" {at} r="2.2"><title>{x:g}: {y:.4g}</title></circle>'

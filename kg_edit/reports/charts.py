"""Line charts as SVG for an HTML page: a few hundred bytes a line, coloured by the page's style sheet.

A line has a class by its position (``line-0``, ``line-1``, … in the given order). The legend is HTML above the chart,
so it covers nothing. Every text is escaped. Numbers that are not finite are left out, and break the line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import chain

WIDTH = 520
HEIGHT = 230
_LEFT = 52
_RIGHT = 12
_TOP = 10
_BOTTOM = 36
_FEW = 40  # lines with at most this many points also have dots
_TICKS = 5
_SPARK = (84, 22)

Point = tuple[float, float]


def line_chart(lines: Mapping[str, Sequence[Point]], *, title: str, x_label: str, y_label: str) -> str:
    """Return a chart of lines of points (x, y), from y = 0 on, with numbers on both axes; "" if no y is finite."""
    finite = {name: _finite_points(line) for name, line in lines.items()}
    points = list(chain.from_iterable(finite.values()))
    if not points:
        return ""
    wide = ticks(max(x for x, _ in points), whole_numbers=True)
    tall = ticks(max(y for _, y in points))
    scale = _Scale(wide[-1], tall[-1])
    parts = [*_axes(wide, tall, scale, x_label, y_label)]
    for number, line in enumerate(lines.values()):
        parts.append(f'<path class="line line-{number}" d="{_path(line, scale)}"/>')
        parts += _dots(number, line, scale)
    legend = "".join(
        f'<span class="key line-{number}">{escape(name)}</span>' for number, name in enumerate(lines) if finite[name]
    )
    head = f'<svg class="chart" role="img" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
    return f'<p class="keys">{legend}</p>{head}<title>{escape(title)}</title>{"".join(parts)}</svg>'


def _finite_points(line: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in line if math.isfinite(y)]


def sparkline(values: Sequence[float]) -> str:
    """Return a line chart of a word's size, from 0 to the largest value; "" if fewer than two numbers are finite."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    wide, tall = _SPARK
    top = max(max(finite), 1e-12)
    points = []
    for index, value in enumerate(values):
        if math.isfinite(value):
            x = 2 + (wide - 4) * index / (len(values) - 1)
            y = tall - 2 - (tall - 4) * max(value, 0) / top
            points.append(f"{x:.1f},{y:.1f}")
    line = " ".join(points)
    ends = f"{values[0]:.2g} to {values[-1]:.2g}"
    return (
        f'<svg class="spark" role="img" width="{wide}" height="{tall}" viewBox="0 0 {wide} {tall}">'
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
    step = min(step for step in round_steps if step >= rough * 0.999)
    if whole_numbers:
        step = max(1.0, float(round(step)))
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


class _Scale:
    """Converts a chart's numbers to pixels."""

    def __init__(self, wide: float, tall: float) -> None:
        self._wide = wide or 1.0
        self._tall = tall or 1.0

    def x(self, value: float) -> float:
        """Pixels from the left."""
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * value / self._wide

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * max(value, 0.0) / self._tall


def _axes(wide: Sequence[float], tall: Sequence[float], scale: _Scale, x_label: str, y_label: str) -> Iterator[str]:
    for value in tall:
        y = scale.y(value)
        yield f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>'
        yield f'<text class="tick y" x="{_LEFT - 6}" y="{y:.1f}">{value:g}</text>'
    for value in wide:
        yield f'<text class="tick x" x="{scale.x(value):.1f}" y="{HEIGHT - _BOTTOM + 14}">{value:g}</text>'
    middle = _TOP + (HEIGHT - _TOP - _BOTTOM) / 2
    yield f'<text class="name x" x="{_LEFT + (WIDTH - _LEFT - _RIGHT) / 2}" y="{HEIGHT - 5}">{escape(x_label)}</text>'
    yield f'<text class="name y" transform="translate(10 {middle:.1f}) rotate(-90)">{escape(y_label)}</text>'


def _path(line: Sequence[Point], scale: _Scale) -> str:
    """The SVG path of a line, which starts again after a number that is not finite."""
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
    """A dot for each point of a short line; its tooltip has the numbers."""
    if len(line) > _FEW:
        return
    for x, y in _finite_points(line):
        at = f'cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}"'
        yield f'<circle class="line-{number}" {at} r="2.2"><title>{x:g}: {y:.4g}</title></circle>'

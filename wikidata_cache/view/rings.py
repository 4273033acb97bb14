"""Boxes of given sizes on rings around a centre: in order, none on another, no line to the centre under a box.

Too many for rings stand in rows above and below the centre instead, where at least every label can be read.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from wikidata_cache.view.boxes import Extent, Part
from wikidata_cache.view.wrapping import wrapped

_STEP, _COARSE = math.radians(0.75), math.radians(1.5)  # of the search for a place; where many boxes move together
_STAGGERED = 3  # rings that a crowd is spread over,
_STAGGER = (150.0, 70.0)  # so far apart,
_PATIENCE = 4  # once one ring has grown so often
_PADDINGS = (26.0, 15.0, 9.0)
_ENOUGH = 40  # growths of a ring by an eighth
_MOST, _MOST_BOXES, _MANY_BOXES = 72, 400, 72  # parts and boxes on rings; boxes that are placed roughly
_ROW_GAP, _HALL = 18.0, 70.0  # pixels between rows, and between them and the centre


class Sector(NamedTuple):
    """Where a ring may be used: from `start` over `sweep` radians (clockwise on the screen), and its least radii."""

    start: float
    sweep: float
    radii: tuple[float, float]
    rings: int = 1
    step: float = _STEP


def ring(centre: Extent, parts: Sequence[Part], sector: Sector) -> list[tuple[float, float]]:
    """A place for each box, in order, on the smallest ellipse that holds them, spread as evenly as it allows."""
    boxes = sum(len(part.boxes) for part in parts)
    fits = len(parts) <= _MOST and boxes <= _MOST_BOXES
    sector = sector._replace(step=_STEP if boxes <= _MANY_BOXES else _COARSE)
    for growth in range(_ENOUGH if fits else 0):
        radii = sector.radii[0] * 1.125**growth, sector.radii[1] * 1.125**growth
        grown = sector._replace(radii=radii, rings=1 if growth < _PATIENCE else _STAGGERED)
        for padding in _PADDINGS if boxes <= _MANY_BOXES else _PADDINGS[2:]:
            if places := _fill(centre, parts, grown, padding, 0.0):
                return _evened(centre, parts, grown, padding) or places
    return _rows_around(centre, parts)


def _evened(centre: Extent, parts: Sequence[Part], sector: Sector, padding: float) -> list[tuple[float, float]] | None:
    """The widest angle between neighbours for which all still fit, by bisection."""
    low, high = 0.0, sector.sweep / len(parts)
    best = _fill(centre, parts, sector, padding, high)
    for _ in range(0 if best else 6):
        angle = (low + high) / 2
        if places := _fill(centre, parts, sector, padding, angle):
            best, low = places, angle
        else:
            high = angle
    return best


def _fill(
    centre: Extent, parts: Sequence[Part], sector: Sector, padding: float, least: float
) -> list[tuple[float, float]] | None:
    """Each box at the first angle, at least `least` after the one before, where it is in nobody's way."""
    angle, end = sector.start + least / 2, sector.start + sector.sweep + 1e-9
    places: list[tuple[float, float]] = []
    taken: list[Part] = []
    for part in parts:
        while (spot := _free(centre, part, angle, sector, (taken, places), padding)) is None:
            angle += sector.step
            if angle > end:
                return None
        if angle > end:
            return None
        places.append(spot)
        taken.append(part.at(*spot))
        angle += max(least, sector.step / 4)
    return places


def _free(
    centre: Extent,
    part: Part,
    angle: float,
    sector: Sector,
    held: tuple[list[Part], list[tuple[float, float]]],
    padding: float,
) -> tuple[float, float] | None:
    """The innermost ring that has room for a box in this direction; its near side is on the ring."""
    box = part.boxes[0]
    across, down = math.cos(angle), math.sin(angle)
    for number in range(sector.rings):
        x = across * (sector.radii[0] + number * _STAGGER[0] + (-box.left if across > 0 else box.right))
        y = down * (sector.radii[1] + number * _STAGGER[1] + (-box.top if down > 0 else box.bottom))
        if any(box.at(x, y).wider(padding).meets(other.boxes[0]) for other in held[0]):
            continue  # soon seen, mostly
        area = part.at(x, y)
        if area.meets(Part([centre], centre), padding) or any(area.meets(other, padding) for other in held[0]):
            continue
        if any(other.is_crossed(x, y) for other in held[0]):
            continue
        if not any(area.is_crossed(*place) for place in held[1]):
            return x, y
    return None


def _rows_around(centre: Extent, parts: Sequence[Part]) -> list[tuple[float, float]]:
    """Rows like lines of text in a block about half as wide again as high, with a hall for the centre."""
    rows = _rows([part.extent for part in parts])
    heights = [max(extent.bottom - extent.top for extent in row) + _ROW_GAP for row in rows]
    y = centre.top - _HALL - sum(heights[: len(rows) // 2])
    places = []
    for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
        if number == len(rows) // 2:
            y = centre.bottom + _HALL
        x = -sum(extent.right - extent.left + _ROW_GAP for extent in row) / 2
        for extent in row:
            places.append((x - extent.left, y + (height - _ROW_GAP - extent.top - extent.bottom) / 2))
            x += extent.right - extent.left + _ROW_GAP
        y += height
    return places


def _rows(extents: Sequence[Extent]) -> list[list[Extent]]:
    sizes = [(e.right - e.left + _ROW_GAP, e.bottom - e.top + _ROW_GAP) for e in extents]
    widest = math.sqrt(1.6 * sum(width * height for width, height in sizes))
    return wrapped(extents, [width for width, _ in sizes], widest=widest)

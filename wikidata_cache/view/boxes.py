"""Rectangles around points, and boxes that are placed together. Lengths are pixels; y grows downwards."""

from collections.abc import Sequence
from typing import NamedTuple


class Extent(NamedTuple):
    """A rectangle around a point, in pixels from it; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def of(cls, size: tuple[float, float]) -> "Extent":
        """A box of this width and height around its middle."""
        return cls(-size[0] / 2, -size[1] / 2, size[0] / 2, size[1] / 2)

    def at(self, x: float, y: float) -> "Extent":
        """The same rectangle moved."""
        return Extent(self.left + x, self.top + y, self.right + x, self.bottom + y)

    def wider(self, padding: float) -> "Extent":
        """With room around it."""
        return Extent(self.left - padding, self.top - padding, self.right + padding, self.bottom + padding)

    def joined(self, other: "Extent") -> "Extent":
        """The smallest rectangle around both."""
        return Extent(*map(min, self[:2], other[:2]), *map(max, self[2:], other[2:]))

    def core(self) -> "Extent":
        """Its middle half, over which no foreign line should run."""
        width, height = (self.right - self.left) / 4, (self.bottom - self.top) / 4
        return Extent(self.left + width, self.top + height, self.right - width, self.bottom - height)

    def meets(self, other: "Extent") -> bool:
        """Whether the rectangles share a point."""
        apart = self.right < other.left or other.right < self.left
        return not (apart or self.bottom < other.top or other.bottom < self.top)

    def is_crossed(self, x: float, y: float) -> bool:
        """Whether the line from (0, 0) to (x, y) enters the rectangle."""
        enters, leaves = 0.0, 1.0
        for way, low, high in ((x, self.left, self.right), (y, self.top, self.bottom)):
            if way:
                first, last = sorted((low / way, high / way))
                enters, leaves = max(enters, first), min(leaves, last)
            elif low > 0 or high < 0:
                return False
        return enters <= leaves


class Part(NamedTuple):
    """Boxes that are placed as one: the root's own first, relative to the root's middle; and what is around them."""

    boxes: Sequence[Extent]
    extent: Extent

    def at(self, x: float, y: float) -> "Part":
        """The same boxes moved."""
        return Part([box.at(x, y) for box in self.boxes], self.extent.at(x, y))

    def meets(self, other: "Part", padding: float) -> bool:
        """Whether any box of one comes nearer than `padding` to one of the other."""
        if not self.extent.wider(padding).meets(other.extent):
            return False
        near = [box for box in other.boxes if box.meets(self.extent.wider(padding))]
        return any(mine.wider(padding).meets(box) for mine in self.boxes for box in near)

    def is_crossed(self, x: float, y: float) -> bool:
        """Whether the line from (0, 0) to (x, y) runs over the middle of any box."""
        return self.extent.is_crossed(x, y) and any(box.core().is_crossed(x, y) for box in self.boxes)

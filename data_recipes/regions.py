"""Rectangles of a fragment: the one way in which a part of a fragment is named.

Splits, quotas and held-out areas are lists of rectangles, so that they can be written in YAML, compared exactly, and
grown by a buffer without rasterising a mask the size of the fragment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Rect(NamedTuple):
    """Half-open rectangle in pixels: rows y0 … y1-1, columns x0 … x1-1."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def area(self) -> int:
        return max(self.height, 0) * max(self.width, 0)

    def grow(self, margin: int) -> Rect:
        """The rectangle with `margin` px more on every side (fewer if negative); it may leave the fragment."""
        return Rect(self.y0 - margin, self.y1 + margin, self.x0 - margin, self.x1 + margin)

    def shift(self, down: int, right: int) -> Rect:
        """The rectangle moved by that many px."""
        return Rect(self.y0 + down, self.y1 + down, self.x0 + right, self.x1 + right)

    def intersect(self, other: Rect) -> Rect | None:
        """The common rectangle, or None where there is none."""
        cut = Rect(max(self.y0, other.y0), min(self.y1, other.y1), max(self.x0, other.x0), min(self.x1, other.x1))
        return cut if cut.y0 < cut.y1 and cut.x0 < cut.x1 else None

    def subtract(self, other: Rect) -> tuple[Rect, ...]:
        """What is left of this rectangle without `other`, as at most four disjoint rectangles."""
        cut = self.intersect(other)
        if cut is None:
            return (self,)
        bands = (
            Rect(self.y0, cut.y0, self.x0, self.x1),
            Rect(cut.y1, self.y1, self.x0, self.x1),
            Rect(cut.y0, cut.y1, self.x0, cut.x0),
            Rect(cut.y0, cut.y1, cut.x1, self.x1),
        )
        return tuple(band for band in bands if band.area)

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.y0, self.y1), slice(self.x0, self.x1)


Region = Mapping[str, tuple[Rect, ...]]
"""Fragment name -> disjoint rectangles of it."""


def subtract_all(rects: Iterable[Rect], holes: Iterable[Rect]) -> tuple[Rect, ...]:
    """The rectangles without any of the holes."""
    left = tuple(rects)
    for hole in holes:
        left = tuple(part for rect in left for part in rect.subtract(hole))
    return left


def whole(shape: tuple[int, int]) -> Rect:
    """The rectangle that covers a plane of the given (H, W)."""
    return Rect(0, shape[0], 0, shape[1])

"""Counts of ink and papyrus in every window of a part, from summed-area tables, a band of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from data_recipes.recipe import Recipe
from data_recipes.regions import Rect

BAND = 512


class Plane(Protocol):
    """(H, W) array, or something that slices like one."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __getitem__(self, index: tuple[slice, slice], /) -> np.ndarray: ...


class Band(NamedTuple):
    """Corners y0 … y1-1 of one rectangle's tiles, all columns in which a corner may lie."""

    rect: Rect
    y0: int
    y1: int

    def covered(self, tile: int) -> Rect:
        """All pixels of those tiles."""
        return Rect(self.y0, self.y1 + tile - 1, self.rect.x0, self.rect.x1)


class Scan:
    """Counts of windows over the planes of one part, a band at a time."""

    def __init__(
        self,
        label: Plane | None,
        papyrus: Plane,
        supervised: Plane,
        validation: Plane | None,
        recipe: Recipe,
        rects: Sequence[Rect],
    ) -> None:
        self.label, self.papyrus, self.supervised, self.validation = label, papyrus, supervised, validation
        self.recipe, self.rects, self.tile = recipe, rects, recipe.tile
        self.least = max(1, int(np.ceil(recipe.min_papyrus * self.tile**2)))
        self.margin = round(recipe.void_margin * self.tile)

    def bands(self) -> Iterator[Band]:
        for rect in self.rects:
            for y0 in range(rect.y0, rect.y1 - self.tile + 1, BAND):
                yield Band(rect, y0, min(y0 + BAND, rect.y1 - self.tile + 1))

    def _masks(self, band: Band) -> tuple[np.ndarray, np.ndarray]:
        """(ink, counted) bool of the rows that the band's tiles cover; counted is supervised papyrus."""
        at = band.covered(self.tile).slices
        counted = np.asarray(self.papyrus[at]) & np.asarray(self.supervised[at])
        ink = np.zeros(counted.shape, bool) if self.label is None else np.asarray(self.label[at]) > 0
        return ink, counted

    def _touched(self, band: Band) -> np.ndarray | None:
        """Summed-area table of the validation mask under the band's tiles; None where it has no pixel there."""
        held_out = None if self.validation is None else np.asarray(self.validation[band.covered(self.tile).slices])
        return None if held_out is None or not held_out.any() else _integral(held_out)

    def counts(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(ink, counted) pixels of the windows whose corners are (y, x) px; each lies in one of the rectangles.

        Both are 0 where a window touches the validation mask.
        """
        ink, counted = np.zeros(len(y), np.int64), np.zeros(len(y), np.int64)
        for band in self.bands():
            rect = band.rect
            own = np.flatnonzero((y >= band.y0) & (y < band.y1) & (x >= rect.x0) & (x <= rect.x1 - self.tile))
            if len(own):
                inked, allowed = self._masks(band)
                at = y[own] - band.y0, x[own] - rect.x0
                ink[own] = _windows_at(_integral(inked & allowed), *at, self.tile)
                counted[own] = _windows_at(_integral(allowed), *at, self.tile)
                if (touched := self._touched(band)) is not None:
                    out = own[_windows_at(touched, *at, self.tile) > 0]
                    ink[out] = counted[out] = 0
        return ink, counted

    @staticmethod
    def ratio(ink: np.ndarray, counted: np.ndarray) -> np.ndarray:
        return ink / np.maximum(counted, 1)

    def papyrus_map(self, band: Band) -> np.ndarray:
        """Corners in the band whose window is mostly supervised papyrus."""
        return self._untouched(band, _windows(_integral(self._masks(band)[1]), self.tile) >= self.least)

    def _untouched(self, band: Band, corners: np.ndarray) -> np.ndarray:
        """Those of the corners in the band whose window is clear of the validation mask."""
        touched = self._touched(band)
        return corners if touched is None else corners & (_windows(touched, self.tile) == 0)

    def void_map(self, band: Band) -> np.ndarray:
        """Corners in the band whose window has no ink, drawn or counted, and lies a margin inside the papyrus.

        What lies beyond the edge of the scan is taken for papyrus: a segment is often cut out of a larger sheet.
        """
        assert self.label is not None
        at = band.covered(self.tile).slices
        clear = _windows(_integral(np.asarray(self.label[at]) > 0), self.tile) == 0
        supervised = np.asarray(self.supervised[at])
        if not supervised.all():
            clear &= _windows(_integral(supervised), self.tile) >= self.least
        height, width = self.papyrus.shape[:2]
        want = band.covered(self.tile).grow(self.margin)
        have = Rect(max(want.y0, 0), min(want.y1, height), max(want.x0, 0), min(want.x1, width))
        papyrus = np.asarray(self.papyrus[have.slices])
        if not papyrus.all():
            outside = ((have.y0 - want.y0, want.y1 - have.y1), (have.x0 - want.x0, want.x1 - have.x1))
            side = self.tile + 2 * self.margin
            clear &= _windows(_integral(np.pad(papyrus, outside, constant_values=True)), side) == side**2
        return self._untouched(band, clear)


def _integral(mask: np.ndarray) -> np.ndarray:
    """(H+1, W+1) int32 summed-area table of a bool mask."""
    return cv2.integral(mask.astype(np.uint8), sdepth=cv2.CV_32S)


def _windows(table: np.ndarray, side: int) -> np.ndarray:
    """Sums of all side × side windows, at their corners."""
    columns = table[:, side:] - table[:, :-side]
    return columns[side:] - columns[:-side]


def _windows_at(table: np.ndarray, y: np.ndarray, x: np.ndarray, side: int) -> np.ndarray:
    """Sums of the windows with corners (y, x)."""
    return table[y + side, x + side] - table[y, x + side] - table[y + side, x] + table[y, x]

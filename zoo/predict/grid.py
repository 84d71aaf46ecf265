"""Where tiles lie, how they are blended, and which of them a shard of the map needs.

All of it belongs to the fragment, not to who predicts which part of it: tiles start at multiples of the stride from its
origin, the last of each row and column is pushed back inside; shards are squares from its origin; tiles that touch the
same shards are one group, read as one block and computed in the same batches whoever does it. So how the work is cut
cannot change a bit of the map.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_recipes.regions import Rect

Blend = Literal["constant", "gaussian", "hann"]

_GAUSSIAN_SIGMA = 0.125  # of the tile's side
_LEAST_WEIGHT = 1e-3  # of the highest: where only a tile's rim covers a pixel, the sum stays far from 0


class Corner(NamedTuple):
    """Top-left pixel of a tile."""

    y: int
    x: int


class Axis:
    """Tiles along one axis of a fragment, and each one's blending weights, which sum to one at every pixel."""

    def __init__(self, length: int, side: int, origins: list[int], window: NDArray[np.float64]):
        self.length, self.side, self.origins = length, side, origins
        total = np.zeros(max(length, side))
        for origin in origins:
            total[origin : origin + side] += window
        self._window, self._total = window, total

    @classmethod
    def of(cls, length: int, side: int, overlap: float, blend: Blend, stride: int | None = None) -> Axis:
        """Tiles of `side` px that cover `length` px; the `stride` in px, where it is given, instead of the overlap.

        Raises:
            ValueError: an overlap outside 0 to .9, a stride below a tenth of the side or above it, a side below 1, an
                unknown blending.
        """
        if side < 1:
            raise ValueError(f"tile {side} px is not possible; give 1 px or more")
        if not 0 <= overlap <= 0.9:
            raise ValueError(f"overlap {overlap} is not possible; give a share of the tile from 0 to 0.9")
        if stride is None:
            stride = max(1, round(side * (1 - overlap)))
        elif not math.ceil(side / 10) <= stride <= side:
            raise ValueError(f"stride {stride} px is not possible; give {math.ceil(side / 10)} to {side} (the tile)")
        last = max(length - side, 0)
        return cls(length, side, [*range(0, last, stride), last], blend_window(side, blend))

    def touching(self, start: int, stop: int) -> list[int]:
        """Origins of the tiles that cover any pixel of start … stop-1, in grid order."""
        return [origin for origin in self.origins if origin < stop and origin + self.side > start]

    def weights(self, origin: int) -> NDArray[np.float64]:
        """(side,) of the tile that starts at `origin`."""
        return self._window / self._total[origin : origin + self.side]

    def groups(self, shard: int) -> dict[tuple[int, int], list[int]]:
        """(first, last) shard that a tile touches -> origins of the tiles that touch just these."""
        found: dict[tuple[int, int], list[int]] = {}
        for origin in self.origins:
            last = min(origin + self.side, self.length) - 1
            found.setdefault((origin // shard, max(last, 0) // shard), []).append(origin)
        return found


def blend_window(side: int, blend: Blend) -> NDArray[np.float64]:
    """(side,) weights before they are normalised, symmetric and above 0."""
    place = (np.arange(side) + 0.5) / side
    if blend == "constant":
        return np.ones(side)
    if blend == "hann":
        return np.maximum(np.sin(math.pi * place) ** 2, _LEAST_WEIGHT)
    if blend == "gaussian":
        return np.maximum(np.exp(-0.5 * ((place - 0.5) / _GAUSSIAN_SIGMA) ** 2), _LEAST_WEIGHT)
    raise ValueError(f"blending {blend!r} is unknown; allowed: constant, gaussian, hann")


class Group(NamedTuple):
    """Tiles that touch the same shards, named by the first and last row and column of these."""

    row: int
    last_row: int
    column: int
    last_column: int


class Grid:
    """The tiles of a map, and the shards in which it is written.

    Args:
        rows, columns: the tiles along Y and X.
        shard: side of a shard in px.
    """

    def __init__(self, rows: Axis, columns: Axis, shard: int):
        self.rows, self.columns, self.shard = rows, columns, shard
        self.shape = rows.length, columns.length
        self.shards_down, self.shards_across = (math.ceil(length / shard) for length in self.shape)
        self._down, self._across = rows.groups(shard), columns.groups(shard)

    def __len__(self) -> int:
        """How many shards there are."""
        return self.shards_down * self.shards_across

    def rect(self, shard: int) -> Rect:
        """The pixels of a shard; shards are counted from 0, row by row."""
        row, column = divmod(shard, self.shards_across)
        y, x = row * self.shard, column * self.shard
        return Rect(y, min(y + self.shard, self.shape[0]), x, min(x + self.shard, self.shape[1]))

    def groups(self, shard: int) -> Iterator[Group]:
        """The groups whose tiles touch a shard."""
        row, column = divmod(shard, self.shards_across)
        down = (span for span in self._down if span[0] <= row <= span[1])
        across = [span for span in self._across if span[0] <= column <= span[1]]
        return (Group(*ys, *xs) for ys, xs in product(down, across))

    def shards_of(self, group: Group) -> Iterator[int]:
        """The shards that a group's tiles touch."""
        rows, columns = range(group.row, group.last_row + 1), range(group.column, group.last_column + 1)
        return (row * self.shards_across + column for row, column in product(rows, columns))

    def corners(self, group: Group) -> list[Corner]:
        """The tiles of a group in grid order."""
        ys, xs = self._down[group.row, group.last_row], self._across[group.column, group.last_column]
        return [Corner(y, x) for y, x in product(ys, xs)]

    def box(self, group: Group) -> Rect:
        """The pixels that a group's tiles cover together; it may leave a map that is smaller than a tile."""
        ys, xs = self._down[group.row, group.last_row], self._across[group.column, group.last_column]
        return Rect(ys[0], ys[-1] + self.rows.side, xs[0], xs[-1] + self.columns.side)

    def blend(self, rect: Rect, maps: Mapping[Corner, NDArray[np.float32]]) -> NDArray[np.float32]:
        """The map of `rect` from the maps of its tiles, (side, side) each; what no tile covers is 0.

        Added in grid order and in double precision, so that where all tiles agree the map is what they say to the bit.
        """
        total = np.zeros((rect.height, rect.width))
        for corner in sorted(maps):
            add_tile(total, rect, corner, maps[corner], self.rows, self.columns)
        return total.astype(np.float32)


def add_tile(
    total: NDArray[np.floating], rect: Rect, corner: Corner, values: NDArray[np.float32], rows: Axis, columns: Axis
) -> None:
    """Add what a tile says, weighted, to the map `total` of `rect`, which it touches."""
    side = rows.side
    cut = Rect(corner.y, corner.y + side, corner.x, corner.x + columns.side).intersect(rect)
    assert cut is not None
    ys, xs = slice(cut.y0 - corner.y, cut.y1 - corner.y), slice(cut.x0 - corner.x, cut.x1 - corner.x)
    weight = rows.weights(corner.y)[ys, None] * columns.weights(corner.x)[None, xs]
    total[cut.y0 - rect.y0 : cut.y1 - rect.y0, cut.x0 - rect.x0 : cut.x1 - rect.x0] += values[ys, xs] * weight

"""From an ink map and a label to sums: read in squares, so that memory does not know the map's size.

Of the map a square and a few pixels around it are read, of the label as much around it as its strokes need for the
measures that look at them; how the work is cut changes no result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_recipes.formats.arrays import LazyArray
from data_recipes.fragment import Fragment
from data_recipes.regions import Rect, subtract_all, whole
from zoo.document_metrics import DRD_BLOCK, DocumentCounts, document_counts, strokes_reach
from zoo.ink_map import InkMap
from zoo.metrics import InkHistogram, block_sum
from zoo.surface_dice import SurfaceCounts, surface_counts, surface_reach

SQUARE = 1536  # px, side of what is scored at once; a multiple of DRD's blocks
OVERLAP = 1024  # px around it at the most; as a rule the strokes need less
PICTURE = 1600  # px, longest side of the reduced map

Track = Callable[[Sequence[Rect], str], Iterable[Rect]]


@dataclass(frozen=True)
class Counted:
    """What of a fragment counts: papyrus that is supervised, in rectangles, and in a further mask where there is one.

    `rects` are disjoint.
    """

    fragment: Fragment
    rects: tuple[Rect, ...]
    also: LazyArray | None = None

    def read(self, rect: Rect) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(ink, what counts), bool (H, W) each; where nothing counts the label is not read, and there is no ink."""
        mask = np.zeros((rect.height, rect.width), bool)
        for one in self.rects:
            if cut := rect.intersect(one):
                mask[cut.shift(-rect.y0, -rect.x0).slices] = True
        planes = [self.fragment.papyrus, self.fragment.supervised] + ([] if self.also is None else [self.also])
        for plane in planes:
            if not mask.any():
                break
            mask &= plane[rect.slices]
        if not mask.any():
            return np.zeros_like(mask), mask
        assert self.fragment.label is not None
        return self.fragment.label[rect.slices] > 0, mask

    @property
    def bounds(self) -> Rect:
        """The smallest rectangle that holds all of them."""
        y0, y1, x0, x1 = zip(*self.rects, strict=True)
        return Rect(min(y0), max(y1), min(x0), max(x1))

    def squares(self, side: int) -> list[Rect]:
        """Squares of the fragment's own grid that hold a pixel of the rectangles, cut at its bounds."""
        bounds = self.bounds
        return [
            cut
            for y in range(bounds.y0 // side * side, bounds.y1, side)
            for x in range(bounds.x0 // side * side, bounds.x1, side)
            if (cut := Rect(y, y + side, x, x + side).intersect(whole(self.fragment.shape)))
            and any(cut.intersect(rect) for rect in self.rects)
        ]


@dataclass(frozen=True)
class Reduced:
    """The map in cells of `step` px: sums over the pixels that count, float32 (rows, columns) each.

    Attributes:
        rect: what of the fragment it shows, px.
        right, missed, false: pixels of ink found, ink not found, and blank taken for ink.
        probability: summed.
        pixels: that count.
    """

    step: int
    rect: Rect
    right: NDArray[np.float32]
    missed: NDArray[np.float32]
    false: NDArray[np.float32]
    probability: NDArray[np.float32]
    pixels: NDArray[np.float32]


@dataclass(frozen=True)
class Evaluation:
    """All sums of a map at one threshold. `overlap`: how much of the label was read around each square, px; `exact`:
    whether that is all that the measures need that look at strokes."""

    threshold: float
    histogram: InkHistogram
    counts: DocumentCounts
    surface: SurfaceCounts
    picture: Reduced
    overlap: int
    exact: bool


def what_counts(
    fragment: Fragment, shape: tuple[int, int], region: Sequence[Rect] = (), *, only: str | None = None
) -> Counted:
    """The pixels to score a map of the given (H, W) on; all of the fragment where no region is given.

    Raises:
        ValueError: no label, no validation mask, shapes that differ, or a region outside the fragment.
    """
    if fragment.label is None:
        raise ValueError(f"{fragment.name}: has no ink label ({fragment.path}), so nothing can be scored on it")
    height, width = fragment.shape
    if shape != fragment.shape:
        raise ValueError(
            f"the prediction has {shape[0]}×{shape[1]} px, {fragment.name} has {height}×{width}; expected the same: "
            "of a crop or a reduced map it is not guessed where it lies"
        )
    if only is not None and fragment.validation is None:
        raise ValueError(f"--only {only}: {fragment.name} has no validation mask")
    rects: tuple[Rect, ...] = ()
    for rect in region:
        if rect.intersect(whole(fragment.shape)) != rect:
            raise ValueError(
                f"--region {','.join(map(str, rect))}: expected Y0 < Y1 ≤ {height} and X0 < X1 ≤ {width}, from 0 on"
            )
        rects += subtract_all([rect], rects)
    return Counted(fragment, rects or (whole(fragment.shape),), fragment.validation if only else None)


def histogram_of(ink_map: InkMap, counted: Counted, track: Track) -> InkHistogram:
    """Counts of all pixels that count, by their probability.

    Raises:
        ValueError: a probability that is NaN or outside 0 to 1, or no pixel that counts.
    """
    histogram = InkHistogram()
    for square in track(counted.squares(SQUARE), "probabilities"):
        ink, mask = counted.read(square)
        if mask.any():
            try:
                histogram.add(ink_map.read(*square), ink, mask)
            except ValueError as error:
                raise ValueError(f"{ink_map.path}: {error}") from error
    if not histogram.pixels:
        where = " of the region" if counted.rects != (whole(counted.fragment.shape),) else ""
        raise ValueError(f"{counted.fragment.name}: no pixel{where} is papyrus and supervised, so nothing counts")
    return histogram


def evaluate(
    ink_map: InkMap,
    counted: Counted,
    threshold: float,
    *,
    histogram: InkHistogram | None = None,
    track: Track = lambda squares, what: squares,
    square: int = SQUARE,
    overlap: int = OVERLAP,
) -> Evaluation:
    """Score a map at one threshold, ink being where the probability is no lower.

    Args:
        histogram: of `histogram_of`, where it is known already.
        track: goes through the squares, such as `rich.progress.track`.
        square, overlap: px, multiples of 8: what is scored at once, and how much of the label is read around it at the
            most. How a map is cut changes no result as long as that is 5 times the strokes' half width. Surface Dice
            reads what it needs besides.

    Raises:
        ValueError: as `histogram_of`.
    """
    if square % DRD_BLOCK or overlap % DRD_BLOCK:
        raise ValueError(f"squares of {square} px and {overlap} px around: expected multiples of {DRD_BLOCK}")
    histogram = histogram or histogram_of(ink_map, counted, track)
    squares = counted.squares(square)
    reach = _reach(counted, squares, overlap, track)
    around = min(-(-reach // DRD_BLOCK) * DRD_BLOCK, overlap)
    picture, counts, surface = _empty_picture(counted.bounds), DocumentCounts(), SurfaceCounts()
    for core in track(squares, "boundaries, pseudo-F, DRD, centre lines"):
        ink, mask = counted.read(window := _around(core, max(around, surface_reach()), counted))
        part = core.shift(-window.y0, -window.x0).slices
        if not mask[part].any():
            continue
        near = _around(core, surface_reach(), counted)
        beside, inside = near.shift(-window.y0, -window.x0).slices, core.shift(-near.y0, -near.x0).slices
        prob = ink_map.read(*near)
        predicted = prob >= threshold
        surface += surface_counts(predicted, ink[beside], mask[beside], core=inside)
        counts += document_counts(predicted[inside], ink, mask, core=part)
        _add_to_picture(picture, core, prob[inside], ink[part], mask[part], threshold)
    return Evaluation(threshold, histogram, counts, surface, picture, around, reach <= around)


def _reach(counted: Counted, squares: Sequence[Rect], overlap: int, track: Track) -> int:
    """How far what counts depends on its surroundings, px, on the whole map; right as far as `overlap`, and above it
    where it is more."""
    widest = 2
    for core in track(squares, "strokes"):
        ink, mask = counted.read(window := _around(core, overlap // 5 + 1, counted))
        widest = max(widest, strokes_reach(ink & mask, core=core.shift(-window.y0, -window.x0).slices))
    return widest


def _around(core: Rect, margin: int, counted: Counted) -> Rect:
    return core.grow(margin).intersect(whole(counted.fragment.shape)) or core


def _empty_picture(bounds: Rect) -> Reduced:
    step = max(1, -(-max(bounds.height, bounds.width) // PICTURE))
    cells = -(-bounds.y1 // step) - bounds.y0 // step, -(-bounds.x1 // step) - bounds.x0 // step
    return Reduced(step, bounds, *(np.zeros(cells, np.float32) for _ in range(5)))


def _add_to_picture(
    picture: Reduced,
    rect: Rect,
    prob: NDArray[np.float32],
    ink: NDArray[np.bool_],
    mask: NDArray[np.bool_],
    threshold: float,
) -> None:
    cut = rect.intersect(picture.rect)
    if cut is None:
        return
    part = cut.shift(-rect.y0, -rect.x0).slices
    prob, ink, mask = prob[part], ink[part], mask[part]
    predicted = prob >= threshold
    step, (top, left) = picture.step, (picture.rect.y0 // picture.step, picture.rect.x0 // picture.step)

    def add(to: NDArray[np.float32], values: NDArray[Any]) -> None:
        sums = block_sum(values, step, cut.y0, cut.x0)
        y, x = cut.y0 // step - top, cut.x0 // step - left
        to[y : y + sums.shape[0], x : x + sums.shape[1]] += sums

    add(picture.right, mask & predicted & ink)
    add(picture.missed, mask & ink & ~predicted)
    add(picture.false, mask & predicted & ~ink)
    add(picture.probability, np.where(mask, prob, 0))
    add(picture.pixels, mask)

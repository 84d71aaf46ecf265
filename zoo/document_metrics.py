"""Measures of document image binarisation: pseudo-F, DRD, and how much of a stroke's centre line is found.

What a pixel-wise score counts alike weighs differently here: a stroke's core more than its rim, false ink beside a
stroke more than a speck far away, a wrong pixel among wrong ones more than one among right ones. Counts are summed
over squares of a map and divided once, as in `zoo.metrics`.

Maps are (H, W) bool; what lies outside `mask` never counts, and beyond it there is no ink and no stroke.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from zoo.metrics import Confusion, block_sum
from zoo.surface_dice import contour

DRD_BLOCK = 8
"""px, side of the blocks that DRD counts."""

Bools = NDArray[np.bool_]
Part = tuple[slice, slice]
"""Rows and columns of a map, each with its start and stop."""


@dataclass(frozen=True)
class DocumentCounts:
    """Sums over pixels; those of several squares add up to the map's.

    Attributes:
        tp, fp, fn, tn: pixels.
        weighted_found, weighted_ink: recall weights of the ink found, and of all ink.
        weighted_false: precision weights of the false ink; true ink weighs 1.
        centre_found, centre: pixels of the label's skeleton that are predicted as ink, and all of them.
        distortion: sum of DRD over the wrong pixels.
        mixed_blocks: blocks of 8×8 px whose label is neither all ink nor all blank.
        half_width: largest distance of the label's skeleton from a stroke's rim, px.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0
    weighted_found: float = 0.0
    weighted_ink: float = 0.0
    weighted_false: float = 0.0
    centre_found: int = 0
    centre: int = 0
    distortion: float = 0.0
    mixed_blocks: int = 0
    half_width: int = 0

    def __add__(self, other: DocumentCounts) -> DocumentCounts:
        both = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return DocumentCounts(**{name: max(ab) if name == "half_width" else sum(ab) for name, ab in both.items()})

    @property
    def confusion(self) -> Confusion:
        return Confusion(self.tp, self.fp, self.fn, self.tn)

    def pseudo_recall(self) -> float:
        """Share of the weighted ink that is found; NaN without ink."""
        return self.weighted_found / self.weighted_ink if self.weighted_ink else np.nan

    def pseudo_precision(self) -> float:
        """Share of true ink in the weighted ink predicted; NaN where none is."""
        predicted = self.tp + self.weighted_false
        return self.tp / predicted if predicted else np.nan

    def pseudo_f(self) -> float:
        """Harmonic mean of both; 1 where there is neither ink nor predicted ink, 0 where only one of the two."""
        if not self.confusion.pixels:
            return np.nan
        recall, precision = self.pseudo_recall(), self.pseudo_precision()
        if np.isnan(recall) or np.isnan(precision):
            return 1.0 if np.isnan(recall) and np.isnan(precision) else 0.0
        return 2 * recall * precision / (recall + precision) if recall + precision else 0.0

    def drd(self) -> float:
        """Distance reciprocal distortion a mixed block: 0 is perfect, no upper end. NaN where pixels are wrong and no
        block is mixed, so that there is nothing to divide by."""
        if not self.confusion.pixels:
            return np.nan
        if not self.fp + self.fn:
            return 0.0
        return self.distortion / self.mixed_blocks if self.mixed_blocks else np.nan

    def centre_line_recall(self) -> float:
        """Share of the label's skeleton that is predicted as ink; NaN without ink."""
        return self.centre_found / self.centre if self.centre else np.nan


def document_counts(predicted: Bools, ink: Bools, mask: Bools, *, core: Part | None = None) -> DocumentCounts:
    """The counts of a map, or those of the part `core` of a label, the rest being the surroundings that it needs.

    The same as on the whole map where the core's surroundings are `strokes_reach` wide. `core` begins at a multiple of
    8 px of the map.

    Args:
        predicted: of the core.
        ink, mask: (H, W) each; `mask` says which pixels count.
        core: rows and columns; default all.
    """
    core = core or (slice(0, ink.shape[0]), slice(0, ink.shape[1]))
    inside = mask[core]
    if predicted.shape != inside.shape or ink.shape != mask.shape:
        raise ValueError(
            f"map {predicted.shape}, label {ink.shape} and mask {mask.shape} must be of one shape, the map the core's"
        )
    if not inside.any():
        return DocumentCounts()
    ink, predicted = ink & mask, predicted & inside
    own = ink[core]
    found, missed, false = predicted & own, own & ~predicted, predicted & ~own
    tp, fn, fp = (int(np.count_nonzero(which)) for which in (found, missed, false))
    tn = int(np.count_nonzero(inside)) - tp - fn - fp
    total, ink_px = block_sum(inside, DRD_BLOCK), block_sum(own, DRD_BLOCK)
    mixed = int(np.count_nonzero((ink_px > 0) & (ink_px < total)))
    distortion = _distortion(missed, false, ink, mask, core) if fn + fp else 0.0
    if not ink.any():
        return DocumentCounts(tp, fp, fn, tn, weighted_false=float(fp), distortion=distortion, mixed_blocks=mixed)
    strokes = stroke_weights(ink, core=core)
    return DocumentCounts(
        tp,
        fp,
        fn,
        tn,
        weighted_found=float(strokes.recall[found].sum(dtype=np.float64)),
        weighted_ink=float(strokes.recall.sum(dtype=np.float64)),
        weighted_false=float(strokes.precision[false].sum(dtype=np.float64)),
        centre_found=int(np.count_nonzero(strokes.skeleton & found)),
        centre=int(np.count_nonzero(strokes.skeleton)),
        distortion=distortion,
        mixed_blocks=mixed,
        half_width=strokes.half_width,
    )


def strokes_reach(ink: Bools, *, core: Part | None = None) -> int:
    """How far from a pixel, px, lies what its counts depend on, where the strokes through `core` are the map's widest.

    5 times a stroke's half width: a blank pixel that is weighed by a stroke lies a width from its contour, the contour
    half a width from the skeleton, and the skeleton is settled after two sub-iterations of thinning, of one px each,
    for every px of half the width. DRD's 2 px at the least.
    """
    core = core or (slice(0, ink.shape[0]), slice(0, ink.shape[1]))
    if not ink[core].any():
        return 2
    inside = cv2.distanceTransform(np.pad(ink, 1).view(np.uint8), cv2.DIST_C, 3)[1:-1, 1:-1]
    return 5 * int(inside[core].max())


# -- DRD ---------------------------------------------------------------------------------------------------------------


def reciprocal_distances() -> NDArray[np.float64]:
    """(5, 5): one over the distance from the centre, in sum 1; the centre itself is 0."""
    y, x = np.mgrid[-2:3, -2:3]
    distance = np.hypot(y, x)
    weight = np.divide(1, distance, out=np.zeros((5, 5)), where=distance > 0)
    return weight / weight.sum()


def _distortion(missed: Bools, false: Bools, ink: Bools, mask: Bools, core: Part) -> float:
    """Over the core's wrong pixels, the weight of what around them is labelled otherwise than they are predicted.

    Lu, Kot, Shi: Distance-reciprocal distortion measure for binary document images, 2004. Of the 5×5 px around, those
    outside the mask weigh nothing, as those outside the image do there.
    """
    (top, bottom), (left, right) = ((max(side.start - 2, 0), side.stop + 2) for side in core)
    near = slice(top, bottom), slice(left, right)
    part = tuple(slice(side.start - low, side.stop - low) for side, low in zip(core, (top, left), strict=True))
    weight = reciprocal_distances()

    def around(which: Bools) -> NDArray[np.float32]:
        weighed = cv2.filter2D(which.astype(np.float32), -1, weight, borderType=cv2.BORDER_CONSTANT)
        return np.asarray(weighed[part], np.float32)

    labelled, blank = around(ink[near]), around(mask[near] & ~ink[near])
    return float(labelled[missed].sum(dtype=np.float64) + blank[false].sum(dtype=np.float64))


# -- pseudo-F ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StrokeWeights:
    """What the label's strokes say of each pixel; (H, W) each.

    Attributes:
        skeleton: bool, the centre lines.
        recall: float32 weight of an ink pixel; those across a stroke add up to 1, its rim weighs nothing.
        precision: float32 weight of a blank pixel, from 1 to 2.
        half_width: largest chessboard distance of the skeleton from a stroke's rim, px.
    """

    skeleton: Bools
    recall: NDArray[np.float32]
    precision: NDArray[np.float32]
    half_width: int


def stroke_weights(ink: Bools, *, core: Part | None = None) -> StrokeWeights:
    """The weights of pseudo-recall and pseudo-precision, from a label with at least one ink pixel; of its part `core`.

    Ntirogiannis, Gatos, Pratikakis: Performance evaluation methodology for historical document image binarization,
    2013. With D the chessboard distance from the strokes' contour: recall weighs ink by D over the sum of D across the
    stroke there (k² for 2k+1 px, k·(k+1) for 2k+2 px), precision weighs blank by 1 + D/width as far as one stroke
    width from the contour, and by 1 beyond. Two departures, so that a weight depends on its surroundings alone and a
    map can be cut up: the width is that of the nearest stroke at that place, where the paper takes the mean of the
    connected component; and the gap between two components that are closer than a width does not narrow it.
    """
    core = core or (slice(0, ink.shape[0]), slice(0, ink.shape[1]))
    edge = contour(ink)
    skeleton = thin(ink)
    distance, nearest, place = _nearest(edge)

    spine = np.flatnonzero(skeleton)
    thinnest = edge.ravel()[spine]  # a stroke of one or two px is all contour
    half = np.maximum(distance.ravel()[spine].astype(np.int64), 1)
    beside = cv2.dilate(np.where(ink & ~skeleton, distance + 1, 0).astype(np.uint16), _CROSS)  # 0: no ink beside it
    even = beside.ravel()[spine] > np.where(thinnest, 0, half)
    width = np.where(thinnest, 1, 2 * half + 1) + even
    across = half * (half + (even & ~thinnest))  # of 2 px one weighs 1, the other nothing
    del beside

    near_contour, distance = nearest[core].ravel(), distance[core].ravel()
    _, nearest, _ = _nearest(skeleton)  # numbers its points as `spine` does
    own, shape = ink[core].ravel(), skeleton[core].shape
    at = np.flatnonzero(own)
    spine_at = nearest[core].ravel()[at]
    weight = np.where(skeleton[core].ravel()[at], np.maximum(distance[at], 1), distance[at]).astype(np.int64)
    # a px that lies nearer to a thinner stroke's skeleton than to its own must not weigh more than on its own
    recall = _filled(shape, 0, at, weight / np.maximum(across[spine_at], weight * weight))
    at = np.flatnonzero(~own & (distance <= width.max()))
    stroke, away = width[nearest.ravel()[place[near_contour[at]]]], distance[at].astype(np.int64)
    precision = _filled(shape, 1, at, np.where(away <= stroke, 1 + away / stroke, 1))
    return StrokeWeights(skeleton[core], recall, precision, int(half.max()))


def _filled(shape: tuple[int, ...], value: float, at: NDArray[np.int64], others: NDArray) -> NDArray[np.float32]:
    """A map of one value, with others at the given indices into the flat map."""
    out = np.full(shape, value, np.float32)
    out.ravel()[at] = others
    return out


_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


def _nearest(points: Bools) -> tuple[NDArray[np.uint16], NDArray[np.int32], NDArray[np.int64]]:
    """(H, W) chessboard distance to the nearest of the points; (H, W) which one it is; (n,) where in the flat map each
    of them lies, row by row."""
    distance, found = cv2.distanceTransformWithLabels(
        (~points).view(np.uint8), cv2.DIST_C, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    number: NDArray[np.int32] = np.asarray(found, np.int32)
    place = np.flatnonzero(points)
    order = np.zeros(place.size + 1, np.int32)
    order[number.ravel()[place]] = np.arange(place.size)
    return np.minimum(distance, 65534).astype(np.uint16), order[number], place


# -- centre lines ------------------------------------------------------------------------------------------------------


def thin(ink: Bools) -> Bools:
    """(H, W) the skeleton of the ink: lines one px wide, of the same connectivity, no component lost.

    Guo, Hall: Parallel thinning with two-subiteration algorithms, 1989, A1. A pixel is looked at again only after one
    beside it went, so the cost goes with the area that is peeled off, not with the map's.
    """
    height, width = ink.shape
    row = width + 2
    flat = np.pad(ink, 1).ravel()
    around = np.array([-row, 1 - row, 1, 1 + row, row, row - 1, -1, -1 - row])  # north and on clockwise
    bits = np.left_shift(1, np.arange(8))
    border = np.flatnonzero(np.pad(contour(ink), 1))
    waiting = [border, border]  # by sub-iteration, those whose neighbours changed since it saw them
    number = np.empty(flat.shape, np.int32)
    turn = 0
    while waiting[0].size or waiting[1].size:
        at = waiting[turn][flat[waiting[turn]]]
        dead = at[_guo_hall()[turn][flat[at[:, None] + around] @ bits]]
        flat[dead] = False
        touched = (dead[:, None] + around).ravel()
        waiting[turn] = _once(touched[flat[touched]], number)
        turn = 1 - turn
        waiting[turn] = _once(np.concatenate([waiting[turn], waiting[1 - turn]]), number)
    return np.ascontiguousarray(flat.reshape(height + 2, row)[1:-1, 1:-1])


def _once(values: NDArray[np.int64], number: NDArray[np.int32]) -> NDArray[np.int64]:
    """Without repetitions; `number` is a scratch array as long as the largest value."""
    order: NDArray[np.int32] = np.arange(values.size, dtype=np.int32)
    number[values] = order
    return values[number[values] == order]


@cache
def _guo_hall() -> tuple[Bools, Bools]:
    """(256,) each: whether a pixel goes, by its neighbours, in the first and the second sub-iteration."""
    north, ne, east, se, south, sw, west, nw = ((np.arange(256) >> bit & 1).astype(bool) for bit in range(8))
    pairs = ((north, ne, east), (east, se, south), (south, sw, west), (west, nw, north))
    crossings = sum((~a & (b | c)).astype(int) for a, b, c in pairs)
    one = sum((a | b).astype(int) for a, b in ((nw, north), (ne, east), (se, south), (sw, west)))
    other = sum((a | b).astype(int) for a, b in ((north, ne), (east, se), (south, sw), (west, nw)))
    few = np.minimum(one, other)
    border = (crossings == 1) & (few >= 2) & (few <= 3)
    return border & ~((north | ne | ~se) & east), border & ~((south | sw | ~nw) & west)

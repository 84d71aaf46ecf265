"""Boundary-tolerant surface Dice: the share of the ink's boundary that lies where the label's does, within a few px.

A label's boundary is itself off by some pixels, so that a pixel-wise score takes a map that is as good as another label
for a bad one. Here a boundary within the tolerance is right, and one beyond it is wrong, however far. Counts are summed
over squares of a map and divided once, as in `zoo.metrics`.

Maps are (H, W) bool; what lies outside `mask` never counts, and beyond it there is no ink. So where the mask's rim cuts
through ink there is a boundary, and a map that has ink there too has found it: scores compare under one mask only, and
a map that calls everything ink does not score 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

SURFACE_TOLERANCE = 8.0
"""px: at the 7.91 µm of scroll segments 63 µm, about what labels are off by there (50 to 100 µm); at the 3.24 µm of
Kaggle's fragments 26 µm."""

Bools = NDArray[np.bool_]
Part = tuple[slice, slice]
"""Rows and columns of a map, each with its start and stop."""

_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


@dataclass(frozen=True)
class SurfaceCounts:
    """Pixels of the two boundaries; those of several squares add up to the map's.

    Attributes:
        label_found, label: of the label's boundary, those with the map's within the tolerance, and all.
        predicted_right, predicted: of the map's boundary, those with the label's within the tolerance, and all.
        pixels: that count.
    """

    label_found: int = 0
    label: int = 0
    predicted_right: int = 0
    predicted: int = 0
    pixels: int = 0

    def __add__(self, other: SurfaceCounts) -> SurfaceCounts:
        return SurfaceCounts(
            self.label_found + other.label_found,
            self.label + other.label,
            self.predicted_right + other.predicted_right,
            self.predicted + other.predicted,
            self.pixels + other.pixels,
        )

    def dice(self) -> float:
        """Share of both boundaries that lies within the tolerance of the other one.

        As Dice does elsewhere, it is 1 where there is neither ink nor predicted ink, 0 where there is only one of the
        two, NaN where no pixel counts.
        """
        if not self.pixels:
            return np.nan
        both = self.label + self.predicted
        return (self.label_found + self.predicted_right) / both if both else 1.0


def surface_counts(
    predicted: Bools, ink: Bools, mask: Bools, *, core: Part | None = None, tolerance: float = SURFACE_TOLERANCE
) -> SurfaceCounts:
    """The counts of a map, or those of its part `core`, the rest being the surroundings that it needs.

    Nikolov et al.: Deep learning to achieve clinically applicable segmentation of head and neck anatomy for
    radiotherapy, 2018, in two dimensions and with the boundary counted in pixels, as monai's `compute_surface_dice`
    does without sub-voxels: the boundary is the ink with a blank pixel, or none, among its four neighbours, and
    distances are Euclidean from pixel to pixel.

    The same as on the whole map where the core's surroundings are `surface_reach` wide or end with the map.

    Args:
        predicted, ink, mask: (H, W) each; `mask` says which pixels count.
        core: rows and columns; default all.
        tolerance: px; a distance as large is within it.

    Raises:
        ValueError: shapes differ, or a tolerance that is no distance.
    """
    if not predicted.shape == ink.shape == mask.shape:
        raise ValueError(f"map {predicted.shape}, label {ink.shape} and mask {mask.shape} must be of one shape")
    if not (tolerance >= 0 and math.isfinite(tolerance)):
        raise ValueError(f"a tolerance of {tolerance} px; expected a distance from 0 on")
    core = core or (slice(0, ink.shape[0]), slice(0, ink.shape[1]))
    pixels = int(np.count_nonzero(mask[core]))
    if not pixels:
        return SurfaceCounts()
    own, other = contour(ink & mask), contour(predicted & mask)
    label_found, label = _within(own, other, core, tolerance)
    predicted_right, all_predicted = _within(other, own, core, tolerance)
    return SurfaceCounts(label_found, label, predicted_right, all_predicted, pixels)


def surface_reach(tolerance: float = SURFACE_TOLERANCE) -> int:
    """How far from a pixel, px, lies what its counts depend on: the other boundary, and the pixels beside that."""
    return math.floor(tolerance) + 1


def contour(ink: Bools) -> Bools:
    """(H, W) ink with a blank pixel among its four neighbours; beyond the map there is no ink."""
    inside = cv2.erode(ink.view(np.uint8), _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=(0,))
    return ink & ~inside.astype(bool)


def _within(boundary: Bools, of: Bools, core: Part, tolerance: float) -> tuple[int, int]:
    """How many pixels of the boundary, inside the core, lie within the tolerance of another one, and how many there
    are."""
    own = boundary[core]
    total = int(np.count_nonzero(own))
    if not total or not of.any():
        return 0, total
    distance = cv2.distanceTransform((~of).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return int(np.count_nonzero(distance[core][own] <= tolerance)), total

"""Surface Dice: monai's, its own definition pixel by pixel, values by hand, masks, and maps that are cut up."""

from __future__ import annotations

import math
import warnings

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.surface_dice import SURFACE_TOLERANCE, SurfaceCounts, contour, surface_counts, surface_reach

KINDS = ("noise", "blobs", "empty", "full", "single")
TOLERANCES = (0.0, 1.0, 1.5, 2.0, 5.0, 8.0)


def some(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> np.ndarray:
    if kind == "noise":
        return rng.random(shape) < rng.choice([0.02, 0.3, 0.9])
    if kind == "blobs":
        field = cv2.GaussianBlur(rng.random(shape).astype(np.float32), (0, 0), 2)
        return field > np.quantile(field, 0.6)
    out = np.full(shape, kind == "full")
    if kind == "single":
        out[tuple(rng.integers(0, shape))] = True
    return out


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """(predicted, ink, mask, tolerance); the map is no larger than a few tolerances."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.integers(1, 28)), draw(st.integers(1, 28))
    predicted, ink = (some(rng, draw(st.sampled_from(KINDS)), shape) for _ in range(2))
    mask = some(rng, draw(st.sampled_from(("full", "full", "blobs", "noise", "single", "empty"))), shape)
    return predicted, ink, mask, draw(st.sampled_from(TOLERANCES))


def whole(predicted: np.ndarray, ink: np.ndarray, mask: np.ndarray | None = None, **options) -> SurfaceCounts:
    return surface_counts(predicted, ink, np.ones_like(ink) if mask is None else mask, **options)


def bar(y: int, x: int, height: int = 6, width: int = 20, shape: tuple[int, int] = (40, 50)) -> np.ndarray:
    out = np.zeros(shape, bool)
    out[y : y + height, x : x + width] = True
    return out


def by_definition(predicted: np.ndarray, ink: np.ndarray, mask: np.ndarray, tolerance: float) -> SurfaceCounts:
    """Every pixel of the one boundary against every pixel of the other."""

    def boundary(image: np.ndarray) -> list[tuple[int, int]]:
        held = {(int(y), int(x)) for y, x in np.argwhere(image & mask)}
        return [(y, x) for y, x in held if not {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} <= held]

    def near(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> int:
        return sum(any(math.hypot(y - v, x - u) <= tolerance for v, u in other) for y, x in one)

    label, own = boundary(ink), boundary(predicted)
    return SurfaceCounts(near(label, own), len(label), near(own, label), len(own), int(mask.sum()))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_counts_are_those_of_the_definition(case):
    predicted, ink, mask, tolerance = case
    got = surface_counts(predicted, ink, mask, tolerance=tolerance)
    assert got == (by_definition(*case) if mask.any() else SurfaceCounts())
    assert math.isnan(got.dice()) if not mask.any() else 0 <= got.dice() <= 1


@settings(max_examples=60, deadline=None)
@given(cases())
def test_it_is_monais(case):
    """Monai's, in pixels: without a spacing, and with no sub-voxels; it has NaN where there is no boundary at all."""
    torch, monai = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    predicted, ink, mask, tolerance = case
    maps = [torch.from_numpy((image & mask)[None, None]) for image in (predicted, ink)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a map is empty
        theirs = monai.compute_surface_dice(*maps, [tolerance], include_background=True).item()
    got = surface_counts(predicted, ink, mask, tolerance=tolerance)
    if got.label + got.predicted:
        assert got.dice() == pytest.approx(theirs, abs=1e-6)
    else:
        assert math.isnan(theirs)


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(1, 12), st.integers(1, 12))
def test_squares_add_up_to_the_whole_map_however_it_is_cut(case, height, width):
    predicted, ink, mask, tolerance = case
    reach, total = surface_reach(tolerance), SurfaceCounts()
    for y in range(0, ink.shape[0], height):
        for x in range(0, ink.shape[1], width):
            top, left = max(y - reach, 0), max(x - reach, 0)
            window = slice(top, y + height + reach), slice(left, x + width + reach)
            bottom, right = min(y + height, ink.shape[0]), min(x + width, ink.shape[1])
            core = slice(y - top, bottom - top), slice(x - left, right - left)
            parts = (image[window] for image in (predicted, ink, mask))
            total += surface_counts(*parts, core=core, tolerance=tolerance)
    assert total == surface_counts(predicted, ink, mask, tolerance=tolerance)


@settings(max_examples=30, deadline=None)
@given(cases(), st.integers(0, 2**32 - 1))
def test_what_lies_outside_the_mask_never_counts(case, seed):
    predicted, ink, mask, tolerance = case
    noise = np.random.default_rng(seed).random((2, *ink.shape)) < 0.5
    other = np.where(mask, predicted, noise[0]), np.where(mask, ink, noise[1])
    assert surface_counts(*other, mask, tolerance=tolerance) == surface_counts(
        predicted, ink, mask, tolerance=tolerance
    )


@settings(max_examples=30, deadline=None)
@given(cases())
def test_map_and_label_may_change_places(case):
    predicted, ink, mask, tolerance = case
    forth, back = (surface_counts(*pair, mask, tolerance=tolerance) for pair in ((predicted, ink), (ink, predicted)))
    assert forth.dice() == pytest.approx(back.dice(), nan_ok=True)


@pytest.mark.parametrize("moved", [0, 1, 8])
def test_a_bar_that_is_moved_by_no_more_than_the_tolerance_is_right(moved):
    assert whole(bar(10, 5 + moved), bar(10, 5)).dice() == 1


def test_beyond_the_tolerance_the_ends_of_a_bar_are_wrong():
    ink, predicted = bar(10, 5), bar(10, 14)  # 6×20 px, moved by 9: of each the 6 px of one end lie 9 px apart
    got = whole(predicted, ink)
    assert got == SurfaceCounts(48 - 6, 48, 48 - 6, 48, 2000)
    assert whole(predicted, ink, tolerance=9).dice() == 1


def test_a_diagonal_is_as_long_as_it_is():
    one, other = (np.zeros((12, 12), bool) for _ in range(2))
    one[2, 2] = other[5, 6] = True  # 3-4-5
    assert (whole(one, other, tolerance=5).dice(), whole(one, other, tolerance=4.99).dice()) == (1, 0)


def test_false_ink_far_away_costs_its_boundary():
    ink, speck = bar(10, 5), bar(30, 40, 3, 3)
    got = whole(ink | speck, ink)
    assert got.dice() == (48 + 48) / (48 + 48 + 8)


def test_what_has_no_value_and_what_has_an_extreme_one():
    empty, full = np.zeros((9, 9), bool), np.ones((9, 9), bool)
    single = bar(4, 4, 1, 1, (9, 9))
    assert math.isnan(whole(full, full, empty).dice())
    assert whole(empty, empty).dice() == 1, "neither ink nor predicted ink"
    assert whole(empty, full).dice() == whole(full, empty).dice() == whole(empty, single).dice() == 0
    assert whole(full, full).dice() == whole(single, single, single).dice() == 1


def test_where_the_masks_rim_cuts_ink_there_is_a_boundary():
    ink, mask = bar(10, 5), np.ones((40, 50), bool)
    mask[:, 15:] = False
    assert (contour(ink & mask)[10:16, 14]).all(), "its last column"
    assert whole(ink, ink, mask).label == 2 * 6 + 2 * 8
    none_there = ink & (np.arange(50) < 5)
    assert whole(none_there, ink, mask).dice() == 0


def test_the_reach_is_the_tolerance_and_the_pixels_beside():
    assert (surface_reach(0), surface_reach(1.5), surface_reach()) == (1, 2, int(SURFACE_TOLERANCE) + 1)


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_a_tolerance_that_is_no_distance_is_refused(tolerance):
    with pytest.raises(ValueError, match="expected a distance"):
        whole(bar(1, 1), bar(1, 1), tolerance=tolerance)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        surface_counts(np.zeros((8, 8), bool), np.zeros((8, 9), bool), np.zeros((8, 9), bool))

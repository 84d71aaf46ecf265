"""Pseudo-F, DRD and centre-line recall: values worked out by hand, references, invariants, and maps that are cut up."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import pytest
from scipy import ndimage

from zoo.document_metrics import (
    DocumentCounts,
    document_counts,
    reciprocal_distances,
    stroke_weights,
    strokes_reach,
    thin,
)

EIGHT = np.ones((3, 3), bool)


def counts(predicted: np.ndarray, ink: np.ndarray, mask: np.ndarray | None = None) -> DocumentCounts:
    return document_counts(predicted, ink, np.ones_like(ink) if mask is None else mask)


def bar(height: int = 3, length: int = 7, shape: tuple[int, int] = (24, 24), y: int = 10, x: int = 8) -> np.ndarray:
    ink = np.zeros(shape, bool)
    ink[y : y + height, x : x + length] = True
    return ink


def blobs(seed: int, shape: tuple[int, int] = (120, 150), sigma: float = 3) -> np.ndarray:
    field = cv2.GaussianBlur(np.random.default_rng(seed).random(shape).astype(np.float32), (0, 0), sigma)
    return field > np.quantile(field, 0.7)


def letters(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """Strokes of a pen of several widths, crossing one another."""
    rng = np.random.default_rng(seed)
    image = np.zeros(shape, np.uint8)
    for _ in range(25):
        y, x = rng.integers(0, shape[0]), rng.integers(0, shape[1])
        points = np.cumsum([[x, y], *rng.integers(-60, 60, (3, 2))], axis=0).astype(np.int32)
        cv2.polylines(image, [points], bool(rng.random() < 0.3), (1,), int(rng.integers(1, 24)))
    return image.astype(bool)


def predictions(ink: np.ndarray, seed: int = 0) -> np.ndarray:
    """Near the ink: its rim moved, specks beside it and holes in it."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(0, 1, ink.shape).astype(np.float32), (0, 0), 3)
    return cv2.GaussianBlur(ink.astype(np.float32), (0, 0), 3) + 2 * noise > 0.5


# -- centre lines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.5, 1, 3, 8])
def test_thinning_is_guo_halls(sigma):
    morphology = pytest.importorskip("skimage.morphology")
    ink = blobs(1, sigma=sigma)
    assert (thin(ink) == morphology.thin(ink)).all()


@pytest.mark.parametrize(
    "ink", [blobs(2), blobs(3, sigma=1), letters(4, (150, 200)), np.ones((9, 14), bool), bar(2, 2)]
)
def test_a_skeleton_keeps_every_component_and_lies_in_the_ink(ink):
    ink = np.pad(ink, 1)
    skeleton = thin(ink)
    assert (ink | ~skeleton).all()
    assert ndimage.label(skeleton, EIGHT)[1] == ndimage.label(ink, EIGHT)[1]
    assert ndimage.label(~skeleton)[1] == ndimage.label(~ink)[1], "holes stay, none is made"


def test_a_skeleton_of_nothing_and_of_one_pixel():
    assert not thin(np.zeros((4, 5), bool)).any()
    assert (thin(bar(1, 1)) == bar(1, 1)).all()


def test_centre_line_recall_is_the_share_of_the_skeleton_that_is_found():
    ink = bar()  # its centre line: row 11, columns 9 to 13
    assert (thin(ink) == bar(1, 5, y=11, x=9)).all()
    found = ink.copy()
    found[11, 9:11] = False
    assert counts(found, ink).centre_line_recall() == 3 / 5
    assert counts(thin(ink), ink).centre_line_recall() == 1, "the rim is of no account"


# -- pseudo-F ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "across"),
    [
        (1, [1]),
        (2, [0, 1]),
        (3, [0, 1, 0]),
        (4, [0, 1 / 2, 1 / 2, 0]),
        (5, [0, 1 / 4, 2 / 4, 1 / 4, 0]),
        (6, [0, 1 / 6, 2 / 6, 2 / 6, 1 / 6, 0]),
        (7, [0, 1 / 9, 2 / 9, 3 / 9, 2 / 9, 1 / 9, 0]),
    ],
)
def test_recall_weights_add_up_to_one_across_a_stroke(width, across):
    weights = stroke_weights(bar(width, 60, (40, 80)))
    np.testing.assert_allclose(weights.recall[10 : 10 + width, 40], across, rtol=1e-6)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6])
def test_precision_weights_rise_to_two_at_a_strokes_width_from_it(width):
    weights = stroke_weights(bar(width, 60, (40, 80)))
    beyond = weights.precision[10 + width : 10 + width + 8, 40]
    np.testing.assert_allclose(beyond, [1 + d / width if d <= width else 1 for d in range(1, 9)], rtol=1e-6)


def test_pseudo_f_worked_out_by_hand():
    ink = bar()  # 21 px; 5 on its centre line weigh 1 each, the rim nothing; 3 px wide
    predicted = ink.copy()
    predicted[11, 9] = False  # of the centre line
    predicted[10, 8] = False  # of the rim
    predicted[9, 10] = True  # beside it: 1 + 1/3
    predicted[20, 20] = True  # far away: 1
    got = counts(predicted, ink)
    recall, precision = 4 / 5, 19 / (19 + 4 / 3 + 1)
    assert got.pseudo_recall() == pytest.approx(recall)
    assert got.pseudo_precision() == pytest.approx(precision)
    assert got.pseudo_f() == pytest.approx(2 * recall * precision / (recall + precision))


def test_pseudo_f_forgives_a_rim_and_f_does_not():
    ink = bar(9, 40, (40, 80))
    thinner = cv2.erode(ink.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    got = counts(thinner, ink)
    assert got.pseudo_f() > 0.99 > got.confusion.fbeta(1)


# -- DRD ---------------------------------------------------------------------------------------------------------------


def test_the_weight_matrix_is_the_published_one():
    published = [0.0256, 0.0324, 0.0362, 0.0324, 0.0256], [0.0324, 0.0512, 0.0724, 0.0512, 0.0324]
    got = reciprocal_distances()
    np.testing.assert_allclose(got[:2], published, atol=5e-5)
    assert got[2, 2] == 0 and got.sum() == pytest.approx(1) and (got == got.T).all() and (got == got[::-1]).all()


def test_drd_worked_out_by_hand():
    ink = bar(12, 24, (24, 24), y=12, x=0)  # the lower half: the middle row of blocks is mixed, 3 of them
    assert counts(ink, ink).mixed_blocks == 3
    weight = reciprocal_distances()
    far, near = ink.copy(), ink.copy()
    far[4, 12] = True  # all around it is blank
    near[11, 12] = True  # of the rows around it, two are ink
    assert counts(far, ink).drd() == pytest.approx(1 / 3)
    assert counts(near, ink).drd() == pytest.approx(weight[:3].sum() / 3)
    hole, rim = ink.copy(), ink.copy()
    hole[20, 12] = False
    rim[12, 12] = False
    assert counts(hole, ink).drd() == pytest.approx(1 / 3)
    assert counts(rim, ink).drd() == pytest.approx(weight[2:].sum() / 3)
    assert counts(far | near, ink).drd() == pytest.approx((1 + weight[:3].sum()) / 3)


@pytest.mark.parametrize(("seed", "shape", "expected"), [(0, (32, 48), 12.343640889), (1, (64, 40), 20.486881889)])
def test_drd_is_that_of_doxapy(seed, shape, expected):
    """As doxapy 0.9.2 gives it, whose weights are rounded to a millionth."""
    rng = np.random.default_rng(seed)
    ink = np.zeros(shape, bool)
    ink[8:20, 5:30] = ink[22:30, 28:34] = True
    assert counts(ink ^ (rng.random(shape) < 0.08), ink).drd() == pytest.approx(expected, rel=1e-5)


def test_drd_grows_with_the_distance_that_a_stroke_is_moved():
    ink = bar(9, 40, (40, 80))
    moved = [counts(np.roll(ink, far, axis=0), ink).drd() for far in range(5)]
    assert moved[0] == 0 and all(np.diff(moved) > 0)


def test_drd_grows_with_the_distance_of_a_speck_from_the_stroke():
    ink = bar(9, 40, (40, 80))
    specks = []
    for far in range(1, 4):
        predicted = ink.copy()
        predicted[10 - far, 40] = True
        specks.append(counts(predicted, ink).drd())
    assert all(np.diff(specks) > 0)


# -- all of them -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ink", [blobs(5), letters(6, (150, 200)), bar(1, 1), bar(2, 2), np.ones((16, 16), bool)])
def test_a_perfect_map_scores_one_and_a_distortion_of_none(ink):
    got = counts(ink, ink)
    assert got.pseudo_f() == got.pseudo_recall() == got.pseudo_precision() == got.centre_line_recall() == 1
    assert got.drd() == 0


def test_what_has_no_value():
    empty, full = np.zeros((16, 16), bool), np.ones((16, 16), bool)
    nothing = counts(full, full, empty)
    assert nothing == DocumentCounts() and math.isnan(nothing.pseudo_f()) and math.isnan(nothing.drd())
    blank = counts(empty, empty)
    assert blank.pseudo_f() == 1 and blank.drd() == 0 and math.isnan(blank.centre_line_recall())
    assert counts(full, empty).pseudo_f() == counts(empty, full).pseudo_f() == 0
    assert counts(empty, full).centre_line_recall() == 0
    assert math.isnan(counts(full, empty).drd()), "no mixed block to divide by"


def test_what_lies_outside_the_mask_never_counts():
    rng = np.random.default_rng(7)
    ink, mask = letters(8, (160, 200)), blobs(9, (160, 200), 12)
    predicted = predictions(ink)
    other = np.where(mask, ink, rng.random(ink.shape) < 0.5), np.where(mask, predicted, rng.random(ink.shape) < 0.5)
    got = counts(predicted, ink, mask)
    assert got == counts(other[1], other[0], mask)
    assert got.tp + got.fp + got.fn + got.tn == mask.sum()
    assert got == counts(predicted & mask, ink & mask, mask)


def test_pixels_are_counted_as_they_are():
    ink = letters(10, (160, 200))
    predicted, mask = predictions(ink), blobs(11, (160, 200), 12)
    got = counts(predicted, ink, mask)
    assert got.tp == (predicted & ink & mask).sum() and got.fp == (predicted & ~ink & mask).sum()
    assert got.fn == (~predicted & ink & mask).sum()
    assert got.confusion.recall() == got.tp / (ink & mask).sum()


def test_a_core_with_the_surroundings_that_its_strokes_need_counts_as_on_the_whole_map():
    ink = letters(12, (400, 480))
    mask = ~blobs(13, ink.shape, 12)
    predicted = predictions(ink)
    reach = -(-strokes_reach(ink & mask) // 8) * 8
    assert 40 < reach < 200, "the map is larger than what a core needs"
    total = DocumentCounts()
    for y in range(0, 400, 80):
        for x in range(0, 480, 80):
            top, left = max(y - reach, 0), max(x - reach, 0)
            window = slice(top, y + 80 + reach), slice(left, x + 80 + reach)
            core = slice(y - top, y - top + 80), slice(x - left, x - left + 80)
            total += document_counts(predicted[y : y + 80, x : x + 80], ink[window], mask[window], core=core)
    for field in dataclasses.fields(DocumentCounts):
        got, expected = getattr(total, field.name), getattr(counts(predicted, ink, mask), field.name)
        assert got == pytest.approx(expected, rel=1e-9), field.name


def test_how_far_strokes_reach():
    assert strokes_reach(np.zeros((20, 20), bool)) == 2
    assert strokes_reach(bar(9, 40, (40, 80))) == 5 * 5


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        counts(np.zeros((8, 8), bool), np.zeros((8, 9), bool))

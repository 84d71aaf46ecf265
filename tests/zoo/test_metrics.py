"""Metrics against scikit-learn or pixel by pixel, on random and degenerate maps; any order; nothing outside the mask.

A histogram knows a probability by its bin. So maps are drawn at the bins' edges, where scikit-learn sees the same ties,
or at their centres, which calibration takes; and for any probability the bins themselves say how far it may be off.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from zoo.metrics import (
    BINS,
    InkHistogram,
    auc,
    auc_within_rows,
    block_scores,
    block_sum,
    threshold_at,
)

KINDS = ("random", "empty", "full", "single", "nothing supervised", "one supervised")


@st.composite
def maps(draw):
    """(prob, label, mask): 12×9 px, probabilities at bin edges."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(KINDS))
    shape = (12, 9)
    spread = draw(st.sampled_from([0, 1, 20, BINS]))
    if spread > 1:
        prob = np.vectorize(threshold_at)(rng.integers(0, spread, shape) * (BINS // spread))
    else:  # the same everywhere, or but for one pixel
        prob = np.full(shape, draw(st.sampled_from([0.0, 0.5, 1.0])))
        prob[6, 4] = prob[6, 4] if spread else threshold_at(800)
    label = (rng.random(shape) < 0.3).astype(np.uint8) * 255
    mask = rng.random(shape) < 0.8
    if kind == "empty":
        label[:] = 0
    elif kind == "full":
        label[:] = 1
    elif kind == "single":
        label[:] = 0
        label[5, 5], mask[5, 5] = 1, True
    elif kind == "nothing supervised":
        mask[:] = False
    elif kind == "one supervised":
        mask[:] = False
        mask[3, 3] = True
    return prob, label, mask


def same(got: float, expected: float) -> bool:
    return got == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)


@settings(max_examples=150, deadline=None)
@given(maps(), st.sampled_from([*map(threshold_at, (0, 300, 512, 800, 900, 1023)), 1.5]))
def test_every_score_equals_scikit_learn(case, threshold):
    prob, label, mask = case
    histogram = InkHistogram().add(prob, label, mask)
    truth, score = label[mask] > 0, prob[mask]
    assert histogram.pixels == len(truth)
    if not len(truth):
        for value in (
            histogram.dice(0.5), histogram.iou(0.5), histogram.accuracy(0.5), histogram.prevalence(),
            histogram.auc(), histogram.ap(), histogram.lift(), histogram.calibration_error(),
        ):  # fmt: skip
            assert math.isnan(value)
        assert histogram.best_threshold() == 0.5
        return
    predicted = score >= threshold
    one = {"zero_division": 1.0}
    tn, fp, fn, tp = sk.confusion_matrix(truth, predicted, labels=[False, True]).ravel()
    at = histogram.confusion(threshold)
    assert at == (tp, fp, fn, tn) and at.pixels == len(truth)
    assert same(at.precision(), sk.precision_score(truth, predicted, zero_division=math.nan))
    assert same(at.recall(), sk.recall_score(truth, predicted, zero_division=math.nan))
    assert (math.isnan(at.precision()), math.isnan(at.recall())) == (not predicted.any(), not truth.any())
    assert same(histogram.dice(threshold), sk.f1_score(truth, predicted, **one) if tp + fp + fn else 1.0)
    for beta in (0.5, 2.0):
        assert same(histogram.fbeta(threshold, beta), sk.fbeta_score(truth, predicted, beta=beta, **one))
    assert same(histogram.iou(threshold), sk.jaccard_score(truth, predicted, **one) if tp + fp + fn else 1.0)
    assert same(histogram.accuracy(threshold), sk.accuracy_score(truth, predicted))
    assert same(histogram.prevalence(), truth.mean())
    if truth.any():
        expected = sk.average_precision_score(truth, score)
        assert same(histogram.ap(), expected)
        assert same(histogram.lift(), expected / truth.mean())
    else:
        assert math.isnan(histogram.ap())
        assert math.isnan(histogram.lift())
    for got in (histogram.auc(), auc(score, truth)):
        assert same(got, sk.roc_auc_score(truth, score)) if 0 < truth.mean() < 1 else math.isnan(got)


@settings(max_examples=80, deadline=None)
@given(maps(), st.integers(0, 2**32 - 1), st.sampled_from([1, 7, 15, 40]))
def test_the_calibration_error_is_that_of_every_group_of_pixels(case, seed, groups):
    _, label, mask = case
    rng = np.random.default_rng(seed)
    step = 24 / BINS
    centres = 1 / (1 + np.exp(12 - step * (rng.integers(0, BINS, label.shape) + 0.5)))
    prob = np.full(label.shape, centres[0, 0]) if seed % 5 == 0 else centres
    histogram = InkHistogram().add(prob, label, mask)
    pixels = [(float(p), bool(ink)) for p, ink in zip(prob[mask], label[mask], strict=True)]
    error, found = 0.0, []
    for group in range(groups):
        held = [(p, ink) for p, ink in pixels if group / groups <= p < (group + 1) / groups]
        if held:
            mean, share = sum(p for p, _ in held) / len(held), sum(ink for _, ink in held) / len(held)
            error += len(held) / len(pixels) * abs(mean - share)
            found.append((mean, share, len(held)))
    assert same(histogram.calibration_error(groups), error if pixels else math.nan)
    assert np.allclose(np.transpose(histogram.reliability(groups)), np.reshape(found, (-1, 3)), rtol=1e-9)


@settings(max_examples=80, deadline=None)
@given(maps(), st.integers(0, 2**32 - 1), st.sampled_from([0.01, 1.0, 6.0]))
def test_of_any_probabilities_auc_and_ap_are_off_by_no_more_than_their_bins_hide(case, seed, spread):
    """Of pixels in one bin the order is not known: AUC counts a pair of them half, where it is worth 0 or 1, and AP has
    one precision for all, where it lies between that with the bin's blank pixels first and that with its ink first."""
    _, label, mask = case
    prob = 1 / (1 + np.exp(-np.random.default_rng(seed).normal(0, spread, label.shape)))
    histogram = InkHistogram().add(prob, label, mask)
    blank, ink = histogram.counts[:, ::-1]
    truth, score = label[mask] > 0, prob[mask]
    if truth.any():
        tp = np.cumsum(ink) - ink
        before = np.cumsum(ink + blank) - ink - blank
        low, high = (tp + 1) / (before + blank + 1), (tp + ink) / np.maximum(before + ink, 1)
        off = abs(histogram.ap() - sk.average_precision_score(truth, score))
        assert off <= (ink * (high - low))[ink > 0].sum() / ink.sum() + 1e-12
    if 0 < truth.sum() < truth.size:
        off = abs(histogram.auc() - sk.roc_auc_score(truth, score))
        assert off <= (ink * blank).sum() / ink.sum() / blank.sum() / 2 + 1e-12


@settings(max_examples=60, deadline=None)
@given(maps(), st.sampled_from([0.5, 1.0]))
def test_the_best_threshold_is_the_best_of_all(case, beta):
    prob, label, mask = case
    histogram = InkHistogram().add(prob, label, mask)
    best = histogram.best_threshold(beta)
    if (label[mask] > 0).any():
        scores = [sk.fbeta_score(label[mask] > 0, prob[mask] >= t, beta=beta) for t in np.unique(prob[mask])]
        assert same(histogram.fbeta(best, beta), max(scores))
        assert same(sk.fbeta_score(label[mask] > 0, prob[mask] >= best, beta=beta), max(scores))
    else:
        assert best == 0.5


def test_between_two_values_the_best_threshold_lies_in_the_middle():
    prob = np.array([[0.001, 0.999]])
    assert InkHistogram().add(prob, prob > 0.5).best_threshold() == pytest.approx(0.5, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(maps(), st.randoms(use_true_random=False))
def test_bands_in_any_order_give_the_same_counts(case, random):
    bands = list(zip(*(np.array_split(array, 4) for array in case), strict=True))
    random.shuffle(bands)
    parts = [InkHistogram().add(*band) for band in bands]
    whole = InkHistogram().add(*case)
    assert sum(parts, InkHistogram()) == whole
    assert parts[0] + parts[1] == parts[1] + parts[0]


@settings(max_examples=40, deadline=None)
@given(maps())
def test_what_lies_outside_the_mask_never_counts(case):
    prob, label, mask = case
    other = np.where(mask, prob, np.nan)
    assert InkHistogram().add(other, np.where(mask, label, 7), mask) == InkHistogram().add(prob, label, mask)
    blocks = [block_scores(p, y, mask, block=4) for p, y in ((prob, label), (other, np.where(mask, label, 7)))]
    for a, b in zip(*blocks, strict=True):
        np.testing.assert_array_equal(a, b)


def test_continuous_maps_agree_with_scikit_learn_within_the_bins():
    rng = np.random.default_rng(3)
    label = rng.random((200, 200)) < 0.2
    prob = 1 / (1 + np.exp(-(rng.normal(size=label.shape) * 2 + 2 * label - 1))).astype(np.float32)
    histogram = InkHistogram().add(prob, label)
    assert histogram.auc() == pytest.approx(sk.roc_auc_score(label.ravel(), prob.ravel()), abs=1e-4)
    assert histogram.ap() == pytest.approx(sk.average_precision_score(label.ravel(), prob.ravel()), abs=1e-3)
    for threshold in (0.1, 0.5, 0.8):
        assert histogram.dice(threshold) == pytest.approx(
            sk.f1_score(label.ravel(), prob.ravel() >= threshold), abs=5e-3
        )
    assert histogram.dice(0.5) == pytest.approx(sk.f1_score(label.ravel(), prob.ravel() >= 0.5), abs=1e-12)


def test_a_calibrated_map_has_no_calibration_error_and_a_bold_one_has():
    rng = np.random.default_rng(4)
    chance = rng.random((400, 400))
    label = rng.random(chance.shape) < chance
    assert InkHistogram().add(chance, label).calibration_error() < 0.01
    bold = np.where(chance > 0.5, 0.999, 0.001)
    assert InkHistogram().add(bold, label).calibration_error() == pytest.approx(0.249, abs=0.01)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_edges_stay_on_their_own_side_and_ends_are_kept(dtype):
    prob = np.array([[0.0, 0.5, 1.0]], dtype)
    histogram = InkHistogram().add(prob, np.ones_like(prob))
    assert np.flatnonzero(histogram.counts[1]).tolist() == [0, BINS // 2, BINS - 1]


@pytest.mark.parametrize("bad", [-0.1, 1.5, math.nan, math.inf])
def test_what_is_no_probability_is_refused(bad):
    prob = np.array([[0.5, bad]])
    with pytest.raises(ValueError, match="probabilities from 0 to 1 are expected"):
        InkHistogram().add(prob, prob > 0)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"map \(2, 2\), label \(2, 3\)"):
        InkHistogram().add(np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="of one length"):
        auc([0.1, 0.2], [True])


# --- blocks ---------------------------------------------------------------------------------------------------------


def test_blocks_are_kept_when_mostly_supervised_and_are_ink_when_mostly_ink():
    prob = np.zeros((4, 8))
    label, supervised = np.zeros((4, 8), np.uint8), np.ones((4, 8), bool)
    supervised[:2, :4] = False  # half of the first block: not kept
    supervised[0, 4:7] = False  # 13 of 16 pixels of the second
    label[:2, 4:] = 1
    label[2, 4:6] = 1  # 7 of the supervised 13
    label[0, 4:7] = 1  # unsupervised ink does not count
    prob[:, 4:] = 0.5
    prob[0, 4:7] = 1.0
    blocks = block_scores(prob, label, supervised, block=4)
    assert [values.tolist() for values in blocks] == [[0.5], [True], [0], [1]]
    label[2, 5] = 0
    assert block_scores(prob, label, supervised, block=4).ink.tolist() == [False]


@settings(max_examples=60, deadline=None)
@given(maps(), st.integers(0, 9), st.integers(0, 9), st.integers(1, 14))
def test_blocks_are_those_of_the_fragments_grid_one_by_one(case, y0, x0, block):
    prob, label, mask = case
    height, width = mask.shape
    expected = []
    for row in range((y0 + height - 1) // block + 1):
        for col in range((x0 + width - 1) // block + 1):
            inside = [
                (y, x)
                for y in range(height)
                for x in range(width)
                if mask[y, x] and (y + y0) // block == row and (x + x0) // block == col
            ]
            if len(inside) > block * block / 2:
                share = sum(bool(label[at]) for at in inside) / len(inside)
                expected.append((sum(prob[at] for at in inside) / len(inside), share > 0.5, row, col))
    got = block_scores(prob, label, mask, block=block, y0=y0, x0=x0)
    assert list(zip(got.row, got.col, strict=True)) == [one[2:] for one in expected]
    assert got.score.tolist() == pytest.approx([one[0] for one in expected])
    assert got.ink.tolist() == [one[1] for one in expected]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 30), st.integers(0, 30), st.integers(1, 17))
def test_parts_of_a_fragment_share_its_grid(height, width, y0, x0, block):
    rng = np.random.default_rng(height * 41 + width)
    image = rng.integers(0, 9, (height, width))
    fragment = np.zeros((y0 + height + block, x0 + width + block), int)
    fragment[y0 : y0 + height, x0 : x0 + width] = image
    rows, cols = (side // block for side in fragment.shape)
    whole = fragment[: rows * block, : cols * block].reshape(rows, block, cols, block).sum((1, 3))
    part = block_sum(image, block, y0, x0)
    top, left = y0 // block, x0 // block
    np.testing.assert_array_equal(part, whole[top : top + part.shape[0], left : left + part.shape[1]])
    assert part.sum() == image.sum()


def test_block_rows_and_columns_are_the_fragments():
    ones = np.ones((32, 32))
    blocks = block_scores(ones, ones, ones, y0=160, x0=32)
    assert (blocks.row.tolist(), blocks.col.tolist()) == ([10, 10, 11, 11], [2, 3, 2, 3])
    assert len(block_scores(ones[:0], ones[:0], ones[:0]).score) == 0


@settings(max_examples=60, deadline=None)
@given(maps())
def test_auc_within_rows_counts_every_pair_of_one_row(case):
    prob, label, mask = case
    worth = []
    for y in range(len(mask)):
        ink, blank = (prob[y][mask[y] & ((label[y] > 0) == which)] for which in (True, False))
        worth += [1.0 if a > b else 0.5 if a == b else 0.0 for a in ink for b in blank]
    row = np.nonzero(mask)[0]
    expected = sum(worth) / len(worth) if worth else math.nan
    assert same(auc_within_rows(prob[mask], label[mask] > 0, row), expected)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 6), st.integers(1, 30))
def test_auc_within_rows_is_the_mean_over_the_pairs_of_each_row(seed, n, rows, values):
    rng = np.random.default_rng(seed)
    score, truth, row = rng.integers(0, values, n), rng.random(n) < 0.4, rng.integers(0, rows, n) * 3
    wins = pairs = 0.0
    for r in np.unique(row):
        of_row = row == r
        count = truth[of_row].sum() * (~truth[of_row]).sum()
        if count:
            wins += count * sk.roc_auc_score(truth[of_row], score[of_row])
            pairs += count
    assert same(auc_within_rows(score, truth, row), wins / pairs if pairs else math.nan)


def test_a_map_that_only_knows_the_lines_is_worth_nothing_within_rows():
    rng = np.random.default_rng(5)
    height = np.sin(np.arange(60) / 4)[:, None] + np.zeros((60, 40))
    truth = rng.normal(size=height.shape) < 2 * height - 0.5
    row = np.repeat(np.arange(60), 40)
    assert auc(height.ravel(), truth.ravel()) > 0.8
    assert auc_within_rows(height.ravel(), truth.ravel(), row) == 0.5


def test_undefined_scores_are_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(auc([], []))
        assert math.isnan(auc([0.3, 0.4], [True, True]))
        empty = InkHistogram().add(np.zeros((2, 2)), np.zeros((2, 2)))
        assert (empty.dice(0.5), empty.iou(0.5), empty.dice(0.0), empty.accuracy(0.5)) == (1.0, 1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="threshold is NaN"):
        empty.dice(math.nan)

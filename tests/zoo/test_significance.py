"""Intervals and nulls: they add up to the whole score, tell equal from different, and see through a layout."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.metrics import BlockScores, InkHistogram, auc, block_scores
from zoo.significance import (
    dice_of,
    letter_blocks,
    paired_auc_bootstrap,
    paired_bootstrap,
    torus_null,
)


def field(seed: int, height: int = 256, width: int = 256, grain: int = 8) -> np.ndarray:
    """(height, width) smooth noise of unit deviation."""
    coarse = np.random.default_rng(seed).normal(size=(height // grain, width // grain))
    return np.kron(coarse, np.ones((grain, grain)))


def squash(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(0, 70))
def test_letter_blocks_add_up_to_the_whole(seed, block, y0):
    rng = np.random.default_rng(seed)
    prob, label, mask = rng.random((50, 33)), rng.random((50, 33)) < 0.3, rng.random((50, 33)) < 0.7
    blocks = letter_blocks(np.where(mask, prob, np.nan), label, mask, 0.5, block=block, y0=y0)
    tp, fp, fn, _ = InkHistogram().add(prob, label, mask).confusion(0.5)
    assert blocks.sum(0).tolist() == [tp, fp, fn]
    assert dice_of(blocks.sum(0)) == pytest.approx(InkHistogram().add(prob, label, mask).dice(0.5))


def test_blocks_without_supervision_are_left_out_the_same_for_every_model():
    mask = np.zeros((64, 64), bool)
    mask[:32] = True
    for prob in (np.zeros((64, 64)), np.ones((64, 64))):
        assert letter_blocks(prob, mask, mask, 0.5, block=16).shape == (8, 3)
    with pytest.raises(ValueError, match="NaN"):
        letter_blocks(np.full((64, 64), np.nan), mask, mask, 0.5)


def test_a_better_model_is_told_from_a_worse_one_and_a_twin_is_not():
    truth = field(1) > 0.5
    good, twin, worse = (squash(3 * truth - 1.5 + s * field(seed)) for seed, s in ((2, 1.0), (3, 1.0), (4, 2.5)))
    blocks = [letter_blocks(prob, truth, None, 0.5, block=32) for prob in (good, twin, worse)]
    better = paired_bootstrap(blocks[0], blocks[2], seed=0)
    assert better.n_blocks == 64
    assert better.lo > 0
    whole = [InkHistogram().add(prob, truth).dice(0.5) for prob in (good, worse)]
    assert better.diff == pytest.approx(whole[0] - whole[1])
    same = paired_bootstrap(blocks[0], blocks[1], seed=0)
    assert same.lo < 0 < same.hi
    assert paired_bootstrap(blocks[0], blocks[0], seed=0)[:3] == (0, 0, 0)


def test_the_bootstrap_is_seeded_and_turns_with_its_arguments():
    rng = np.random.default_rng(0)
    ink = rng.integers(0, 50, 40)
    a, b = (np.stack([tp, rng.integers(0, 50, 40), ink - tp], 1) for tp in (ink // 2, ink // 3))
    one, other = paired_bootstrap(a, b, seed=1), paired_bootstrap(b, a, seed=1)
    assert one == paired_bootstrap(a, b, seed=1)
    assert one[:3] != paired_bootstrap(a, b, seed=2)[:3]
    np.testing.assert_allclose((one.diff, one.lo, one.hi), (-other.diff, -other.hi, -other.lo))


def test_blocks_with_nothing_at_stake_do_not_pass_for_evidence():
    a = np.array([[5, 1, 1], [3, 0, 2]])
    b = np.array([[4, 1, 2], [4, 0, 1]])
    padded = [np.concatenate([blocks, np.zeros((50, 3), int)]) for blocks in (a, b)]
    assert paired_bootstrap(*padded, seed=0) == paired_bootstrap(a, b, seed=0)
    assert paired_bootstrap(*padded, seed=0).n_blocks == 2
    nothing = paired_bootstrap(np.zeros((4, 3)), np.zeros((4, 3)), seed=0)
    assert nothing.n_blocks == 0
    assert math.isnan(nothing.diff)


def test_the_dice_interval_holds_the_truth_as_often_as_it_says():
    hits, rng = 0, np.random.default_rng(7)
    for trial in range(150):
        ink = rng.integers(20, 100, 60)
        a, b = (
            np.stack([tp := (ink * rng.uniform(0.4, 0.8, 60)).astype(int), rng.integers(0, 40, 60), ink - tp], 1)
            for _ in range(2)
        )
        interval = paired_bootstrap(a, b, seed=trial, n=400)
        hits += interval.lo <= 0 <= interval.hi
    assert 0.88 <= hits / 150 <= 1.0


@pytest.mark.parametrize("other", [np.zeros((3, 3)), np.zeros((2, 2)), np.array([[9, 9, 9], [0, 0, 0]])])
def test_blocks_that_are_not_pairs_are_refused(other):
    with pytest.raises(ValueError, match="not pairs"):
        paired_bootstrap(np.zeros((2, 3)), other, seed=0)


# --- AUC of block scores --------------------------------------------------------------------------------------------


def scored(logit: np.ndarray, truth: np.ndarray) -> BlockScores:
    return block_scores(squash(logit), truth, np.ones_like(truth), block=8)


def test_auc_intervals_tell_a_better_model_from_a_worse_one():
    truth = field(1) > 0.5
    a, twin, worse = (scored(2 * truth + s * field(seed), truth) for seed, s in ((2, 1.0), (3, 1.0), (4, 4.0)))
    better = paired_auc_bootstrap(a, worse, seed=0, block=8, pitch=32)
    assert better.n_blocks == 64
    assert better.diff == pytest.approx(auc(a.score, a.ink) - auc(worse.score, worse.ink))
    assert 0 < better.lo < better.diff < better.hi
    same = paired_auc_bootstrap(a, twin, seed=0, block=8, pitch=32)
    assert same.lo < 0 < same.hi
    assert paired_auc_bootstrap(a, a, seed=0, block=8, pitch=32)[:3] == (0, 0, 0)


def test_each_resampled_auc_is_the_auc_of_the_resampled_blocks():
    rng = np.random.default_rng(11)
    truth = field(12, 64, 64) > 0
    a, b = scored(rng.integers(0, 4, (64, 64)) * 1.0, truth), scored(truth + field(13, 64, 64), truth)
    group = (a.row // 2) * 4 + a.col // 2
    diffs = []
    for times in np.random.default_rng(5).multinomial(16, np.full(16, 1 / 16), size=200):
        index = np.repeat(np.arange(len(group)), times[group])
        diffs.append(auc(a.score[index], a.ink[index]) - auc(b.score[index], b.ink[index]))
    interval = paired_auc_bootstrap(a, b, seed=5, n=200, block=8, pitch=16)
    np.testing.assert_allclose((interval.lo, interval.hi), np.quantile(diffs, [0.025, 0.975]), atol=1e-12)


def test_many_distinct_scores_are_merged_without_harm():
    rng = np.random.default_rng(14)
    truth = rng.random((128, 128)) < 0.3
    ones = np.ones_like(truth)
    a, b = (block_scores(squash(truth + rng.normal(size=truth.shape)), truth, ones, block=1) for _ in range(2))
    interval = paired_auc_bootstrap(a, b, seed=0, n=300, block=1, pitch=16)
    assert interval.lo < interval.diff < interval.hi
    assert interval.hi - interval.lo < 0.04


def test_auc_bootstrap_of_one_class_is_nan_and_of_strangers_refused():
    truth = np.zeros((64, 64), bool)
    blank = scored(field(1, 64, 64), truth)
    assert math.isnan(paired_auc_bootstrap(blank, blank, seed=0).diff)
    with pytest.raises(ValueError, match="not pairs"):
        paired_auc_bootstrap(blank, scored(field(1, 64, 64), ~truth), seed=0)
    with pytest.raises(ValueError, match="smaller than a block"):
        paired_auc_bootstrap(blank, blank, seed=0, pitch=4)


# --- the torus null -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_a_map_that_reads_lies_above_its_null_and_others_no_oftener_than_promised(threshold):
    def exceeds(prob: np.ndarray, truth: np.ndarray) -> bool:
        null = torus_null(prob, truth, None, min_shift=64, n=100, block=8, threshold=threshold)
        blocks = block_scores(prob, truth, np.ones_like(truth), block=8)
        score = auc(blocks.score, blocks.ink) if threshold is None else InkHistogram().add(prob, truth).dice(threshold)
        assert null.shape == (100,)
        return score > np.quantile(null, 0.975)

    truth = field(1) > 0.3
    assert exceeds(squash(2 * truth + field(2)), truth)
    by_chance = sum(exceeds(squash(field(100 + seed)), truth) for seed in range(100))
    assert by_chance <= 8  # 2.5 are promised; more than 8 would be seen once in 1,000 times


def test_each_null_score_is_the_score_of_a_shifted_map():
    rng = np.random.default_rng(6)
    truth, prob = field(4, 64, 64) > 0, squash(field(5, 64, 64) + 0.1 * rng.normal(size=(64, 64)))
    mask = field(6, 64, 64) > -1
    null = torus_null(prob, truth, mask, min_shift=24, n=10_000, block=8)
    dice = torus_null(prob, truth, mask, min_shift=24, n=10_000, block=8, threshold=0.5)
    expected_auc, expected_dice = [], []
    for y in range(0, 64, 8):
        for x in range(0, 64, 8):
            if max(min(y, 64 - y), min(x, 64 - x)) >= 24:
                moved, both = np.roll(prob, (y, x), (0, 1)), mask & np.roll(mask, (y, x), (0, 1))
                blocks = block_scores(moved, truth, both, block=8)
                expected_auc.append(auc(blocks.score, blocks.ink))
                expected_dice.append(InkHistogram().add(moved, truth, both).dice(0.5))
    np.testing.assert_allclose(np.sort(null), np.sort(expected_auc))
    np.testing.assert_allclose(np.sort(dice), np.sort(expected_dice), atol=2e-3)


def test_the_null_is_seeded_and_a_region_too_small_for_it_says_so():
    truth, prob = field(4) > 0, squash(field(5))
    nulls = [torus_null(prob, truth, None, min_shift=64, n=20, seed=seed, block=8) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(nulls[0], nulls[1])
    assert (nulls[0] != nulls[2]).any()
    with pytest.raises(ValueError, match="the largest is 128"):
        torus_null(prob, truth, None, min_shift=256)


def test_unsupervised_overlap_gives_nan_not_an_error():
    truth = np.zeros((64, 64), bool)
    assert np.isnan(torus_null(squash(field(5, 64, 64)), truth, None, min_shift=32, n=5)).all()


def test_a_map_of_four_megapixels_takes_seconds():
    truth, prob = field(1, 2000, 2000) > 0.5, squash(field(2, 2000, 2000)).astype(np.float32)
    start = time.perf_counter()
    InkHistogram().add(prob, truth)
    torus_null(prob, truth, None, n=200)
    paired_auc_bootstrap(*[block_scores(prob, truth, np.ones_like(truth))] * 2, seed=0)
    paired_bootstrap(*[letter_blocks(prob, truth, None, 0.5)] * 2, seed=0)
    assert time.perf_counter() - start < 20  # about two on an idle core

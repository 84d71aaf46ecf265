"""The torus null: what a map scores when it is shifted, and that a map that reads lies above it."""

from __future__ import annotations

import numpy as np
import pytest

from data_recipes.regions import Rect
from zoo.metrics import auc, block_scores
from zoo.nulls import torus_null

BLOCK = 8


def field(seed: int, height: int = 256, width: int = 256, grain: int = 8) -> np.ndarray:
    """(height, width) smooth noise of unit deviation."""
    coarse = np.random.default_rng(seed).normal(size=(height // grain, width // grain))
    return np.kron(coarse, np.ones((grain, grain)))


def null_of(
    prob: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None, *, y0: int = 0, x0: int = 0, **how: int
) -> np.ndarray:
    """The null of a map whose first pixel lies at (y0, x0) of its fragment, by blocks of 8 px."""
    counted = np.ones_like(truth) if mask is None else mask
    blocks = block_scores(prob, truth, counted, block=BLOCK, y0=y0, x0=x0)
    rect = Rect(y0, y0 + prob.shape[0], x0, x0 + prob.shape[1])
    return torus_null(blocks, rect, block=BLOCK, **how)


def squash(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))


def test_a_map_that_reads_lies_above_its_null_and_others_no_oftener_than_promised():
    def exceeds(prob: np.ndarray, truth: np.ndarray) -> bool:
        null = null_of(prob, truth, min_shift=64, n=100)
        blocks = block_scores(prob, truth, np.ones_like(truth), block=BLOCK)
        assert null.shape == (100,)
        return auc(blocks.score, blocks.ink) > np.quantile(null, 0.975)

    truth = field(1) > 0.3
    assert exceeds(squash(2 * truth + field(2)), truth)
    by_chance = sum(exceeds(squash(field(100 + seed)), truth) for seed in range(100))
    assert by_chance <= 8  # 2.5 are promised; more than 8 would be seen once in 1,000 times


def test_each_null_score_is_the_score_of_a_shifted_map():
    rng = np.random.default_rng(6)
    truth, prob = field(4, 64, 64) > 0, squash(field(5, 64, 64) + 0.1 * rng.normal(size=(64, 64)))
    mask = field(6, 64, 64) > -1
    null = null_of(prob, truth, mask, min_shift=24, n=10_000)
    expected = []
    for y in range(0, 64, BLOCK):
        for x in range(0, 64, BLOCK):
            if max(min(y, 64 - y), min(x, 64 - x)) >= 24:
                moved, both = np.roll(prob, (y, x), (0, 1)), mask & np.roll(mask, (y, x), (0, 1))
                blocks = block_scores(moved, truth, both, block=BLOCK)
                expected.append(auc(blocks.score, blocks.ink))
    np.testing.assert_allclose(np.sort(null), np.sort(expected))


def test_blocks_follow_the_fragments_grid():
    rng = np.random.default_rng(7)
    truth, prob = field(4, 128, 128) > 0, squash(field(5, 128, 128) + 0.1 * rng.normal(size=(128, 128)))
    mask = np.zeros((128, 128), bool)
    part = np.s_[67:124, 36:126]  # the region begins in the middle of a block
    mask[part] = True
    whole_blocks = np.s_[64:128, 32:128]
    expected = null_of(prob[whole_blocks], truth[whole_blocks], mask[whole_blocks], min_shift=24, n=50)
    found = null_of(prob[part], truth[part], min_shift=24, n=50, y0=67, x0=36)
    np.testing.assert_allclose(found, expected)
    off_the_grid = null_of(prob[part], truth[part], min_shift=24, n=50)
    assert off_the_grid.shape != expected.shape or (off_the_grid != expected).any()


def test_the_null_is_seeded_and_a_region_too_small_for_it_says_so():
    truth, prob = field(4) > 0, squash(field(5))
    nulls = [null_of(prob, truth, min_shift=64, n=20, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(nulls[0], nulls[1])
    assert (nulls[0] != nulls[2]).any()
    with pytest.raises(ValueError, match="the largest is 128"):
        null_of(prob, truth, min_shift=256)


def test_unsupervised_overlap_gives_nan_not_an_error():
    truth = np.zeros((64, 64), bool)
    assert np.isnan(null_of(squash(field(5, 64, 64)), truth, min_shift=32, n=5)).all()

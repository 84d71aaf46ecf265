"""Intervals: they add up to the whole score, and tell equal from different as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.metrics import BlockScores, InkHistogram, auc, block_scores
from zoo.significance import (
    Scatter,
    Scores,
    auc_scores,
    dice_of,
    dice_scores,
    letter_blocks,
    paired,
    scatter,
    score_interval,
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
    blocks = [dice_scores([letter_blocks(prob, truth, None, 0.5, block=32)]) for prob in (good, twin, worse)]
    better = paired(blocks[0], blocks[2])
    assert better.n_blocks == 64
    assert better.lo > 0
    assert better.p < 0.05
    whole = [InkHistogram().add(prob, truth).dice(0.5) for prob in (good, worse)]
    assert better.diff == pytest.approx(whole[0] - whole[1])
    same = paired(blocks[0], blocks[1])
    assert same.lo < 0 < same.hi
    assert same.p > 0.05
    assert paired(blocks[0], blocks[0]) == (0, 0, 0, 64, 1)


def test_the_interval_is_the_same_each_time_and_turns_with_its_arguments():
    rng = np.random.default_rng(0)
    ink = rng.integers(0, 50, 40)
    a, b = (dice_scores([np.stack([tp, rng.integers(0, 50, 40), ink - tp], 1)]) for tp in (ink // 2, ink // 3))
    one, other = paired(a, b), paired(b, a)
    assert one == paired(a, b)
    np.testing.assert_allclose((one.diff, one.lo, one.hi, one.p), (-other.diff, -other.hi, -other.lo, other.p))


def test_what_is_known_of_seeds_and_blocks_that_do_not_scatter_is_a_normal_interval():
    blocks = dice_scores([np.full((40, 3), 9)])
    _, low, high, _, p = paired(blocks, blocks, Scatter(0.02**2, math.inf))
    assert (low, high, p) == (pytest.approx(-1.96 * 0.02 * math.sqrt(2), rel=1e-4), -low, 1)


def test_blocks_with_nothing_at_stake_do_not_pass_for_evidence():
    padded = np.concatenate([np.array([[5, 1, 1], [3, 0, 2]]), np.zeros((50, 3), int)])
    assert paired(dice_scores([padded]), dice_scores([padded])).n_blocks == 2
    nothing = paired(*[dice_scores([np.zeros((4, 3))])] * 2)
    assert nothing.n_blocks == 0
    assert math.isnan(nothing.diff)


def test_what_a_border_cuts_off_is_no_blocks_worth_of_evidence():
    counts = np.full((4, 3), 9)
    parts = np.array([1.0, 1.0, 0.25, 0.5])
    scores = dice_scores([counts, counts], [parts, parts])
    assert paired(scores, scores).n_blocks == 5  # 2 × 2.75
    assert dice_scores([counts]).evidence.tolist() == [1] * 4


@pytest.mark.parametrize("other", [np.zeros((3, 3)), np.zeros((2, 2, 3)), np.array([[9, 9, 9], [0, 0, 0]])])
def test_blocks_that_are_not_pairs_are_refused(other):
    with pytest.raises(ValueError, match="not pairs"):
        paired(dice_scores([np.zeros((2, 3))]), dice_scores([other]))


def test_the_score_is_the_mean_over_runs():
    counts = np.random.default_rng(3).integers(0, 50, (2, 3, 40, 3))  # folds, seeds, blocks
    scores = dice_scores(list(counts))
    assert scores.runs.shape == (2, 3)
    np.testing.assert_allclose(scores.runs, dice_of(counts.sum(2)))
    low, high = score_interval(scores)[1:3]
    assert score_interval(scores).diff == pytest.approx(scores.runs.mean())
    assert low < scores.runs.mean() < high


def test_the_interval_that_is_shown_ends_at_0_and_1():
    two_folds = Scores(np.array([[0.2], [0.9]]), np.full((2, 50), 0.5), np.ones(200), np.ones(200, np.int64))
    assert score_interval(two_folds)[1:3] == (0.0, 1.0)


# --- how often an interval errs ---------------------------------------------------------------------------------------


def drawn(
    rng: np.random.Generator, folds: int, seeds: int, *, of_seeds: float, of_folds: float = 0.0, of_blocks: float = 0.0
) -> Scores:
    """A configuration of Dice .6 whose runs, folds and blocks scatter as given (standard deviations)."""
    level = 0.6 + rng.normal(0, of_folds, (folds, 1)) + rng.normal(0, of_seeds, (folds, seeds))
    drawn_blocks = rng.normal(0, of_blocks, (folds, 1))
    resampled = (level + drawn_blocks).mean(1, keepdims=True) + rng.normal(0, of_blocks, (folds, 60))
    many = folds * 100
    return Scores(level + drawn_blocks, resampled, np.ones(many), np.ones(many, np.int64))


@pytest.mark.parametrize(
    ("folds", "seeds", "deviations"),
    [
        (1, 1, {"of_seeds": 0.0, "of_blocks": 0.03}),
        (1, 3, {"of_seeds": 0.02, "of_blocks": 0.01}),
        (3, 3, {"of_seeds": 0.02, "of_blocks": 0.005}),
        (3, 3, {"of_seeds": 0.02, "of_folds": 0.02}),
        (4, 1, {"of_seeds": 0.02, "of_folds": 0.02}),
    ],
)
def test_equal_models_are_told_apart_no_oftener_than_promised(folds, seeds, deviations):
    rng, wrong = np.random.default_rng(11), 0
    for _ in range(400):
        models = [drawn(rng, folds, seeds, **deviations) for _ in range(4)]
        wrong += paired(models[0], models[1], scatter(models)).p < 0.05
    assert wrong <= 34  # 20 are promised; more than 34 would be seen once in 1,000 times


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_floors_that_hardly_scatter_lend_models_no_certainty(share: float):
    rng, wrong = np.random.default_rng(14), 0
    own = {"of_seeds": 0.02, "of_folds": 0.02, "of_blocks": 0.005}
    for _ in range(400):
        models = [drawn(rng, 3, 3, **own) for _ in range(2)]
        floors = [drawn(rng, 3, 3, **{key: share * value for key, value in own.items()}) for _ in range(4)]
        assert share or scatter(models, floors) == scatter(models)
        wrong += paired(*models, scatter(models, floors)).p < 0.05
    assert wrong <= 20  # pooled with the floors it is about 38


def test_floors_that_scatter_like_models_count_with_them():
    rng = np.random.default_rng(15)
    models, floors = ([drawn(rng, 3, 3, of_seeds=0.02) for _ in range(2)] for _ in range(2))
    assert scatter(models, floors) == scatter([*models, *floors])
    assert scatter([], floors) == scatter(floors)
    single = [one._replace(runs=one.runs[:, :1]) for one in (*models, *floors)]  # one seed does not tell
    assert scatter(single[:2], single[2:]) == scatter(single[:2])


def test_a_pair_that_scatters_more_than_the_others_is_judged_by_itself():
    rng, wrong = np.random.default_rng(12), 0
    for _ in range(400):
        calm = [drawn(rng, 1, 5, of_seeds=0.002) for _ in range(3)]
        wild = drawn(rng, 1, 5, of_seeds=0.04)
        wrong += paired(wild, calm[0], scatter([wild, *calm])).p < 0.05
    assert wrong <= 30  # 20 are promised; with the others' degrees of freedom it was a tenth


def test_a_model_that_scatters_far_more_does_not_hide_what_the_others_differ_in():
    rng, seen, alone, taken_for_one = np.random.default_rng(16), 0, 0, 0
    for _ in range(200):
        calm = [drawn(rng, 1, 3, of_seeds=0.02) for _ in range(8)]
        better = calm[0]._replace(runs=calm[0].runs + 0.1, resampled=calm[0].resampled + 0.1)
        hard = drawn(rng, 1, 3, of_seeds=0.2)
        with_it, without = scatter([better, *calm[1:], hard]), scatter([better, *calm[1:]])
        alone += with_it.seeds == without.seeds and with_it.outlier == float(hard.runs.var(1, ddof=1).mean())
        seen += paired(better, calm[1], with_it).p < 0.001
        taken_for_one += without.outlier < np.inf
    assert alone >= 170  # so few runs may fall near each other all the same
    assert seen >= 160
    assert taken_for_one <= 6, "a hundredth of those that scatter alike"


def test_several_models_that_scatter_far_more_do_not_hide_each_other():
    rng, found = np.random.default_rng(17), 0
    for _ in range(100):
        calm = [drawn(rng, 1, 3, of_seeds=0.02) for _ in range(16)]
        hard = [one._replace(runs=one.runs + np.array([0.2, -0.1, -0.1])) for one in calm[:3]]
        found += scatter([*calm[3:], *hard]).outlier <= min(one.runs.var(1, ddof=1).mean() for one in hard)
    assert found >= 95  # a test that stops at the first that passes finds none


def test_resampling_pixels_in_place_of_letters_would_call_chance_a_difference():
    rng = np.random.default_rng(13)
    wrong = {8: 0, 64: 0}
    for _ in range(40):
        truth = np.kron(rng.random((16, 16)) < 0.5, np.ones((32, 32), bool))
        maps = [squash(2.0 * truth - 1 + 2 * np.kron(rng.normal(size=(8, 8)), np.ones((64, 64)))) for _ in range(2)]
        for side in wrong:
            pair = [dice_scores([letter_blocks(prob, truth, None, 0.5, block=side)], n=200) for prob in maps]
            wrong[side] += paired(*pair).p < 0.05
    assert wrong[64] <= 6  # 2 are promised; more than 6 would be seen once in 200 times
    assert wrong[8] > 20


# --- AUC of block scores --------------------------------------------------------------------------------------------


def scored(logit: np.ndarray, truth: np.ndarray) -> BlockScores:
    return block_scores(squash(logit), truth, np.ones_like(truth), block=8)


def scores_of(*blocks: BlockScores, **options) -> list[Scores]:
    return [auc_scores([[one]], **{"block": 8, "pitch": 32, **options}) for one in blocks]


def test_auc_intervals_tell_a_better_model_from_a_worse_one():
    truth = field(1) > 0.5
    a, twin, worse = (scored(2 * truth + s * field(seed), truth) for seed, s in ((2, 1.0), (3, 1.0), (4, 4.0)))
    of_a, of_twin, of_worse = scores_of(a, twin, worse)
    better = paired(of_a, of_worse)
    assert better.n_blocks == 64
    assert better.diff == pytest.approx(auc(a.score, a.ink) - auc(worse.score, worse.ink))
    assert 0 < better.lo < better.diff < better.hi
    same = paired(of_a, of_twin)
    assert same.lo < 0 < same.hi
    assert paired(of_a, of_a)[:3] == (0, 0, 0)


def test_each_resampled_auc_is_the_auc_of_the_resampled_blocks():
    rng = np.random.default_rng(11)
    truth = field(12, 64, 64) > 0
    a = scored(rng.integers(0, 4, (64, 64)) * 1.0, truth)
    group = (a.row // 2) * 4 + a.col // 2
    expected = []
    for times in np.random.default_rng([5, 0]).multinomial(16, np.full(16, 1 / 16), size=200):
        index = np.repeat(np.arange(len(group)), times[group])
        expected.append(auc(a.score[index], a.ink[index]))
    (scores,) = scores_of(a, pitch=16, n=200, seed=5)
    np.testing.assert_allclose(scores.resampled[0], expected, atol=1e-12)


def test_many_distinct_scores_are_merged_without_harm():
    rng = np.random.default_rng(14)
    truth = rng.random((128, 128)) < 0.3
    ones = np.ones_like(truth)
    a, b = (block_scores(squash(truth + rng.normal(size=truth.shape)), truth, ones, block=1) for _ in range(2))
    interval = paired(*scores_of(a, b, block=1, pitch=16, n=300))
    assert interval.lo < interval.diff < interval.hi
    assert interval.hi - interval.lo < 0.04


def test_a_fold_without_ink_has_no_auc_and_is_left_out():
    truth, nothing = field(1, 64, 64) > 0, np.zeros((64, 64), bool)
    a, blank = scored(truth + field(2, 64, 64), truth), scored(field(3, 64, 64), nothing)
    (alone,) = scores_of(a)
    both = auc_scores([[blank], [a]], block=8, pitch=32)
    assert both.runs.tolist() == alone.runs.tolist()
    assert not math.isnan(paired(both, both).diff)


def test_auc_of_one_class_is_nan_and_of_strangers_refused():
    truth = np.zeros((64, 64), bool)
    blank, other = scored(field(1, 64, 64), truth), scored(field(1, 64, 64), ~truth)
    (of_blank,) = scores_of(blank)
    assert math.isnan(paired(of_blank, of_blank).diff)
    with pytest.raises(ValueError, match="not pairs"):
        paired(of_blank, *scores_of(other))
    with pytest.raises(ValueError, match="not scored on the same"):
        auc_scores([[blank, other]])
    with pytest.raises(ValueError, match="smaller than a block"):
        scores_of(blank, pitch=4)

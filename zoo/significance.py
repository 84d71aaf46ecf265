"""Could it be chance? Paired differences that know how runs scatter over seeds and folds, and blocks over the map.

The unit that is resampled is a block of at least a letter's pitch, never a pixel: neighbouring pixels say the same
thing. Models are compared by the interval of their paired difference, never by whether their own intervals overlap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from zoo.metrics import BlockScores, as_maps, auc, block_sum

LETTER_PITCH = 256
MAX_LEVELS = 2048
RESAMPLES = 1000
ALIVE = 0.5
"""Share of the models' variance over seeds that a floor must have for its scatter to say something of theirs."""
OUTLIER = 0.01
"""Level of the test by which a configuration scatters too much over seeds to say anything of the others."""
_SEED = 20230412


class PairedInterval(NamedTuple):
    """Difference a − b, its 95 % interval, two-sided p, and how many blocks it rests on.

    `n_blocks` counts whole blocks that hold ink; below 30 nothing should be ranked by it.
    """

    diff: float
    lo: float
    hi: float
    n_blocks: int
    p: float = 1.0


def reversed_difference(difference: PairedInterval) -> PairedInterval:
    """b − a out of a − b."""
    return difference._replace(diff=-difference.diff, lo=-difference.hi, hi=-difference.lo)


class Scores(NamedTuple):
    """A configuration's score in every run of a bench, and what each fold's would be on other blocks.

    Attributes:
        runs: (folds, seeds); its mean is the configuration's score.
        resampled: (folds, n), each the mean over a fold's seeds on a resample of its blocks, for all configurations
            the same; NaN where a resample has no score.
        evidence: (blocks of all folds,) how much of a whole block counts, from 0 to 1; of Dice 0 where no ink is. What
            is called ink there changes the score too, but counted, one pixel of false ink a block would make evidence.
        truth: (blocks of all folds,) ink in each, by which it is seen that two configurations were scored on the same.
    """

    runs: NDArray[np.float64]
    resampled: NDArray[np.float64]
    evidence: NDArray[np.float64]
    truth: NDArray[np.int64]


def letter_blocks(
    prob: ArrayLike,
    label: ArrayLike,
    mask: ArrayLike | None,
    threshold: float,
    *,
    block: int = LETTER_PITCH,
    y0: int = 0,
    x0: int = 0,
) -> NDArray[np.int64]:
    """TP, FP and FN of every block of `block` × `block` px that holds a supervised pixel.

    Args:
        prob, label, mask: (H, W); ink is label > 0, predicted where prob ≥ threshold.
        block: at least a letter's pitch, px.
        y0, x0: where the map's first pixel lies in its fragment, px; blocks follow the fragment's grid.

    Returns:
        (n, 3), in an order that depends on the mask alone: two models' rows on one region are pairs. Several regions
        or fragments: `np.concatenate`, in the same order for each model.
    """
    prob, label, mask = as_maps(prob, label, mask)
    # A NaN would pass for 'no ink' in the comparison below.
    if np.isnan(prob[mask]).any():
        raise ValueError("the map holds NaN where it is supervised")
    predicted, ink = mask & (prob >= threshold), mask & (label > 0)
    tp, p, t = (block_sum(image, block, y0, x0) for image in (predicted & ink, predicted, ink))
    held = block_sum(mask, block, y0, x0) > 0
    return np.stack([tp, p - tp, t - tp], -1)[held]


def dice_of(counts: ArrayLike) -> NDArray[np.float64]:
    """(…, 3) TP, FP, FN -> (…) Dice; 1 where all are 0, as in `InkHistogram`."""
    tp, fp, fn = np.moveaxis(np.asarray(counts, float), -1, 0)
    whole = 2 * tp + fp + fn
    return np.where(whole > 0, 2 * tp / np.where(whole > 0, whole, 1), 1.0)


def dice_scores(
    folds: Sequence[ArrayLike], parts: Sequence[ArrayLike] | None = None, *, n: int = RESAMPLES, seed: int = _SEED
) -> Scores:
    """Dice of every run, and on resampled letter blocks.

    Args:
        folds: of each fold (seeds, blocks, 3), or (blocks, 3) of one seed: TP, FP, FN from `letter_blocks`.
        parts: of each fold (blocks,): which part of a whole block counts, from 0 to 1; whole ones by default. What a
            region's border cuts off is no block's worth of evidence.
        n, seed: of the resampling.
    """
    counts = [_per_seed(fold) for fold in folds]
    truth = [of_fold[0, :, 0] + of_fold[0, :, 2] for of_fold in counts]
    resampled, evidence = [], []
    for number, of_fold in enumerate(counts):
        evidence.append((truth[number] > 0).astype(float))
        if parts is not None:
            evidence[-1] *= np.clip(parts[number], 0, 1)
        times = _times(of_fold.shape[1], n, seed, number)
        resampled.append(np.mean([dice_of(times @ of_seed.astype(float)) for of_seed in of_fold], 0))
    return Scores(
        np.stack([dice_of(of_fold.sum(1)) for of_fold in counts]),
        np.stack(resampled),
        np.concatenate(evidence),
        np.concatenate(truth),
    )


def auc_scores(
    folds: Sequence[Sequence[BlockScores]],
    *,
    block: int = 16,
    pitch: int = LETTER_PITCH,
    n: int = RESAMPLES,
    seed: int = _SEED,
) -> Scores:
    """AUC of `block_scores` of every run, and on resampled squares of `pitch` px.

    Folds without ink or without blank blocks have no AUC and are left out; where none has one the score is NaN.

    Args:
        folds: of each fold one entry a seed, all of the same region.
        block: px of the side of one of their blocks.
        pitch: side of the squares, at least a letter's pitch, px.
        n, seed: of the resampling.

    Raises:
        ValueError: the seeds of a fold were not scored on the same blocks; a pitch smaller than a block.
    """
    if pitch < block:
        raise ValueError(f"pitch {pitch} px is smaller than a block of {block} px")
    runs, resampled, evidence, truth = [], [], [], []
    defined = [seeds for seeds in folds if seeds[0].ink.any() and not seeds[0].ink.all()]
    for number, seeds in enumerate(defined or folds):
        first = seeds[0]
        if any(len(x.ink) != len(first.ink) or (x.ink != first.ink).any() for x in seeds):
            raise ValueError(f"the seeds of fold {number} were not scored on the same blocks")
        per = pitch // block
        _, group = np.unique(np.stack([first.row // per, first.col // per]), axis=1, return_inverse=True)
        group = group.reshape(-1)
        groups = int(group.max(initial=-1)) + 1
        times = _times(groups, n, seed, number)
        ink, blank = np.bincount(group, first.ink, groups), np.bincount(group, ~first.ink, groups)
        pairs = (times @ ink) * (times @ blank)
        wins = np.mean([_wins(x.score, x.ink, group, groups) for x in seeds], 0)
        with np.errstate(invalid="ignore"):  # a resample may lack a class: NaN
            resampled.append(((times @ wins) * times).sum(1) / pairs)
        runs.append([auc(x.score, x.ink) for x in seeds])
        evidence.append(np.minimum(np.bincount(group, minlength=groups) / per**2, 1))
        truth.append(ink.astype(np.int64))
    return Scores(np.array(runs), np.stack(resampled), np.concatenate(evidence), np.concatenate(truth))


class Scatter(NamedTuple):
    """How trained configurations scatter in a bench, beyond what they share: variances and their degrees of freedom.

    Attributes:
        seeds: of a run about the mean of its fold's seeds.
        folds: of a fold's mean about what its configuration and that fold lead one to expect: how differently models
            get on with different folds.
        outlier: the smallest variance over seeds that is too large for one of these: a configuration with it speaks for
            itself alone.
    """

    seeds: float = 0.0
    seeds_freedom: float = 0
    folds: float = 0.0
    folds_freedom: int = 0
    outlier: float = math.inf


def scatter(models: Sequence[Scores], floors: Sequence[Scores] = ()) -> Scatter:
    """The scatter of configurations with the same folds and seeds, over all of them: three folds and seeds of two
    models alone say too little of it (methods: two-way layout with interaction, folds × configurations).

    One whose variance over seeds is an outlier takes no part, or a single model that is hard to train would hide all
    differences between the others.

    Args:
        floors: trained like the models, but not among what is ranked. One takes part if its variance over seeds is half
            of the models' or more: a floor that calls everything ink repeats itself whatever it is trained on,
            and tells nothing of how models scatter.
    """
    models, outlier = _without_outliers(models)
    least = ALIVE * float(np.mean([seed_variance(one) for one in models])) if models else 0.0
    alike = [one for one in floors if one.runs.shape[1] > 1 and least <= seed_variance(one) < outlier]
    taking_part = [*models, *alike]
    if not taking_part:
        return Scatter()
    runs = np.stack([one.runs for one in taking_part])  # (configurations, folds, seeds)
    count, folds, seeds = runs.shape
    means = runs.mean(2)
    unexpected = means - means.mean(0) - means.mean(1, keepdims=True) + means.mean()
    freedom = (count - 1) * (folds - 1)
    return Scatter(
        float(runs.var(2, ddof=1).mean()) if seeds > 1 else 0.0,
        count * folds * (seeds - 1),
        float((unexpected**2).sum()) / freedom if freedom else 0.0,
        freedom,
        outlier,
    )


def _without_outliers(models: Sequence[Scores]) -> tuple[list[Scores], float]:
    """Models without those whose variance over seeds is an outlier among theirs, and the smallest of these variances.

    Cochran's C test at 1 % (W. G. Cochran, Annals of Eugenics 11, 1941; its critical values from the F distribution) of
    the largest variance, of the second among what is left, and so on for up to half of three or more models; the last
    that it rejects and all above are outliers. Stopping at the first that passes would miss several: each makes the
    others look usual (B. Rosner, Technometrics 25, 1983).
    """
    left, outlier = sorted(models, key=seed_variance), math.inf
    freedom = _seed_freedom(left[0]) if left else 0
    for _ in range(len(models) // 2 if len(models) > 2 and freedom else 0):
        most, others = seed_variance(left.pop()), len(left)
        beyond = float(stats.f.isf(OUTLIER / (others + 1), freedom, others * freedom))
        if most * others > beyond * sum(map(seed_variance, left)):
            outlier = most
    return [one for one in models if seed_variance(one) < outlier], outlier


def seed_variance(scores: Scores) -> float:
    """Variance of a run about the mean of its fold's seeds; 0 of one seed."""
    return float(scores.runs.var(1, ddof=1).mean()) if scores.runs.shape[1] > 1 else 0.0


def paired(a: Scores, b: Scores, among: Scatter | None = None, *, level: float = 0.95) -> PairedInterval:
    """The difference of two configurations, a − b, over the same folds, seeds and blocks.

    Its interval is Student's t on the variance of the mean over runs:

    - one fold: what resampling the blocks gives, plus what the seeds scatter (degrees of freedom by Welch and
      Satterthwaite; with one seed the blocks' alone, unless `among` says what seeds scatter);
    - several folds: that, or what the difference scatters over the folds, or what all configurations scatter over them
      beyond what they share, whichever is largest, with the degrees of freedom of the last, (M − 1)(F − 1) for M
      configurations and F folds.

    So few runs say little of how they scatter: a pair that scatters less than the others is taken to scatter like
    them, one that scatters more like itself. Where one of the two is an outlier in this (`Scatter.outlier`), each
    scatters like itself, with the few degrees of freedom of its own runs. How often that errs:
    `benchmarks/calibration.py`.

    Args:
        among: scatter of the bench's configurations; by default of these two.

    Raises:
        ValueError: the two were not scored on the same runs and blocks.
    """
    if a.runs.shape != b.runs.shape or a.truth.shape != b.truth.shape or (a.truth != b.truth).any():
        raise ValueError(
            f"scores of {a.runs.shape} runs on {len(a.truth)} blocks and of {b.runs.shape} on {len(b.truth)} are not "
            "pairs: the same folds, seeds, regions and label are expected"
        )
    among = among or scatter([a, b])
    own, each = (seed_variance(a), seed_variance(b)), a.runs.size
    if max(own) < among.outlier:
        of_seeds = [(max(sum(own), 2 * among.seeds) / each, among.seeds_freedom)]
    else:
        of_seeds = [(one / each, float(_seed_freedom(a))) for one in own]
    blocks = whole_blocks([a, b])
    return _interval(a.runs - b.runs, a.resampled - b.resampled, of_seeds, 2 * among.folds, among, blocks, level)


def score_interval(scores: Scores, among: Scatter | None = None, *, level: float = 0.95) -> PairedInterval:
    """A configuration's own score with its interval, for show: models are compared by their paired difference.

    What two or three folds scatter may reach beyond the scores there are; the interval ends at 0 and 1.

    Args:
        among: what seeds scatter, where its own runs do not tell; by default its own.
    """
    alone = among or scatter([scores])
    of_seeds = [(alone.seeds / scores.runs.size, alone.seeds_freedom)]
    found = _interval(scores.runs, scores.resampled, of_seeds, 0.0, alone, whole_blocks([scores]), level)
    return found._replace(lo=max(found.lo, 0.0), hi=min(found.hi, 1.0))


def whole_blocks(scores: Sequence[Scores]) -> int:
    """How many whole blocks hold ink, on which these were scored."""
    return int(np.max([one.evidence for one in scores], axis=0).sum() + 1e-6) if scores else 0


def _seed_freedom(scores: Scores) -> int:
    """Degrees of freedom of `seed_variance`."""
    folds, seeds = scores.runs.shape
    return folds * (seeds - 1)


def _interval(
    runs: NDArray,
    resampled: NDArray,
    of_seeds: Sequence[tuple[float, float]],
    of_folds: float,
    among: Scatter,
    blocks: int,
    level: float,
) -> PairedInterval:
    """The interval of the mean of (folds, seeds) runs. `of_seeds`: what seeds add to the variance of that mean, in
    parts, each with its degrees of freedom; `of_folds`: variance of a fold's mean."""
    score, folds = float(runs.mean()), len(runs)
    if not blocks or math.isnan(score):
        return PairedInterval(math.nan, math.nan, math.nan, blocks)
    of_blocks = float(np.nanvar(resampled, 1, ddof=1).sum()) / folds**2
    parts = [*of_seeds, (of_blocks, blocks - 1)]
    variance = sum(part for part, _ in parts)
    spread = sum(part**2 / max(its_freedom, 1) for part, its_freedom in parts)
    freedom = variance**2 / spread if spread else math.inf  # Welch and Satterthwaite
    if folds > 1:
        variance = max(variance, of_folds / folds, float(runs.mean(1).var(ddof=1)) / folds)
        over_folds = max(among.folds_freedom, folds - 1)
        freedom = over_folds if len(of_seeds) == 1 else min(over_folds, freedom)
    error = math.sqrt(variance)
    if not error:
        return PairedInterval(score, score, score, blocks, float(score == 0))
    reach = error * float(stats.t.ppf((1 + level) / 2, freedom))
    p = float(2 * stats.t.sf(abs(score) / error, freedom))
    return PairedInterval(score, score - reach, score + reach, blocks, p)


def _wins(score: NDArray, ink: NDArray, group: NDArray, groups: int) -> NDArray[np.float64]:
    """(groups, groups): how often an ink block of one group outscores a blank block of another; ties count half.

    Scores are ranked first, and ranks beyond 2048 merged evenly, so that one matrix product does all pairs.
    """
    levels, rank = np.unique(score, return_inverse=True)
    rank = rank.reshape(-1)
    if len(levels) > MAX_LEVELS:
        rank = rank * MAX_LEVELS // len(levels)
    width = int(rank.max()) + 1
    cell = group * width + rank
    size = groups * width
    hits = np.bincount(cell, ink, size).reshape(groups, width)
    misses = np.bincount(cell, ~ink, size).reshape(groups, width)
    below = misses.cumsum(1) - misses / 2
    return hits @ below.T


def _per_seed(blocks: ArrayLike) -> NDArray:
    counts = np.asarray(blocks)
    return counts[None] if counts.ndim == 2 else counts


@lru_cache(maxsize=8)  # the same for every configuration
def _times(blocks: int, n: int, seed: int, fold: int) -> NDArray[np.float64]:
    """(n, blocks): how often each block was drawn. Not to be written to. Counts of pixels are exact as floats, whose
    products are many times as fast as those of integers."""
    if not blocks:
        return np.zeros((n, 0))
    drawn = np.random.default_rng([seed, fold]).multinomial(blocks, np.full(blocks, 1 / blocks), size=n).astype(float)
    drawn.setflags(write=False)
    return drawn

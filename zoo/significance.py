"""Could it be chance, or the layout? Paired bootstraps over blocks of a letter's size, and the torus null.

The unit that is resampled is a block of at least a letter's pitch, never a pixel: neighbouring pixels say the same
thing. Models are compared by the interval of their paired difference, never by whether their own intervals overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zoo.metrics import BlockScores, as_maps, auc, block_scores, block_sum

LETTER_PITCH = 256
MAX_LEVELS = 2048


class PairedInterval(NamedTuple):
    """Difference a − b on all blocks, its 95 % percentile interval, two-sided p, and how many blocks it rests on.

    `n_blocks` counts those where anything was at stake; below 30 nothing should be ranked by it.
    """

    diff: float
    lo: float
    hi: float
    n_blocks: int
    p: float = 1.0


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


def dice_interval(blocks: ArrayLike, *, seed: int, n: int = 4000, level: float = 0.95) -> tuple[float, float]:
    """Interval of one model's own Dice, blocks and seeds resampled; (blocks, 3) or (seeds, blocks, 3). For show only:
    models are compared by their paired difference."""
    counts = _per_seed(blocks)
    lo, hi = np.quantile(_dice_draws(counts, *_draws(counts.shape[1], len(counts), n, seed)), _ends(level))
    return float(lo), float(hi)


def paired_bootstrap(
    blocks_a: ArrayLike, blocks_b: ArrayLike, *, seed: int, n: int = 4000, level: float = 0.95
) -> PairedInterval:
    """Difference of Dice, a − b, with the interval from resampling blocks and seeds, the same ones for both.

    With one seed the interval knows nothing of how much training itself scatters.

    Args:
        blocks_a, blocks_b: (blocks, 3) or (seeds, blocks, 3) each, from `letter_blocks` of the same regions. The Dice
            of several seeds is the mean of theirs.
        seed: of the resampling.
        n: resamples.

    Raises:
        ValueError: the two do not hold the same blocks (their ink, TP + FN, differs).
    """
    a, b = _per_seed(blocks_a), _per_seed(blocks_b)
    if a.shape != b.shape or a.shape[-1] != 3 or (a[..., 0] + a[..., 2] != b[..., 0] + b[..., 2]).any():
        raise ValueError(
            f"blocks {a.shape} and {b.shape} are not pairs: (blocks, 3) of the same regions and label are expected"
        )
    stake = np.concatenate([a, b]).any((0, 2))
    if not stake.any():
        return PairedInterval(np.nan, np.nan, np.nan, 0)
    a, b = a[:, stake], b[:, stake]
    times, chosen = _draws(a.shape[1], len(a), n, seed)
    draws = _dice_draws(a, times, chosen) - _dice_draws(b, times, chosen)
    diff = float((dice_of(a.sum(1)) - dice_of(b.sum(1))).mean())
    return _interval(diff, draws, a.shape[1], level)


def paired_auc_bootstrap(
    a: BlockScores | Sequence[BlockScores],
    b: BlockScores | Sequence[BlockScores],
    *,
    seed: int,
    n: int = 4000,
    block: int = 16,
    pitch: int = LETTER_PITCH,
    level: float = 0.95,
) -> PairedInterval:
    """Difference of block AUC, a − b, with the interval from resampling squares of `pitch` px, the same for both.

    Args:
        a, b: `block_scores` of two models on the same region, with `block` px a block; one each, or one for each seed.
        pitch: side of the squares, at least a letter's pitch, px.

    Raises:
        ValueError: the two do not hold the same blocks.
    """
    ours, theirs = ([x] if isinstance(x, BlockScores) else list(x) for x in (a, b))
    first = ours[0]
    for other in (*ours, *theirs):
        if len(first.ink) != len(other.ink) or any((x != y).any() for x, y in zip(first[1:], other[1:], strict=True)):
            raise ValueError(
                f"{len(first.ink)} and {len(other.ink)} block scores are not pairs: the same region and label expected"
            )
    if pitch < block or len(ours) != len(theirs):
        raise ValueError(
            f"pitch {pitch} px is smaller than a block of {block} px, or {len(ours)} ≠ {len(theirs)} seeds"
        )
    per = pitch // block
    _, group = np.unique(np.stack([first.row // per, first.col // per]), axis=1, return_inverse=True)
    group = group.reshape(-1)
    groups = int(group.max(initial=-1)) + 1
    if not (first.ink.any() and not first.ink.all()):
        return PairedInterval(np.nan, np.nan, np.nan, groups)
    times, chosen = _draws(groups, len(ours), n, seed)
    times = times.astype(float)
    ink, blank = np.bincount(group, first.ink, groups), np.bincount(group, ~first.ink, groups)
    pairs = (times @ ink) * (times @ blank)
    kept = pairs > 0  # a resample may lack a class

    def draws(of_seeds: list[BlockScores]) -> NDArray[np.float64]:
        wins = [((times @ _wins(x.score, x.ink, group, groups)) * times).sum(1) for x in of_seeds]
        return (np.stack(wins, 1) * chosen).sum(1)[kept] / len(of_seeds) / pairs[kept]

    diff = float(np.mean([auc(x.score, x.ink) - auc(y.score, y.ink) for x, y in zip(ours, theirs, strict=True)]))
    return _interval(diff, draws(ours) - draws(theirs), groups, level)


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


def _draws(blocks: int, seeds: int, n: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How often each block, (n, blocks), and each seed, (n, seeds), was drawn."""
    rng = np.random.default_rng(seed)
    times = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=n)
    return times, rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=n)


def _dice_draws(counts: NDArray, times: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
    dice = np.stack([dice_of(times @ of_seed) for of_seed in counts], 1)
    return (dice * chosen).sum(1) / len(counts)


def _ends(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2


def _interval(diff: float, draws: NDArray, blocks: int, level: float) -> PairedInterval:
    if not draws.size:
        return PairedInterval(diff, np.nan, np.nan, blocks)
    lo, hi = np.quantile(draws, _ends(level))
    # The +1 keeps p from being exactly zero: it cannot be known finer than the number of draws.
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (len(draws) + 1))
    return PairedInterval(diff, float(lo), float(hi), blocks, float(p))


def torus_null(
    prob: ArrayLike,
    label: ArrayLike,
    mask: ArrayLike | None,
    *,
    min_shift: int = LETTER_PITCH,
    n: int = 200,
    seed: int = 0,
    block: int = 16,
    threshold: float | None = None,
) -> NDArray[np.float64]:
    """Scores of the same map shifted around the torus: what a map of this texture reaches without reading anything.

    The score is the AUC of blocks (compare with `auc` of `block_scores`), or with a threshold the Dice of pixels
    (compare with `InkHistogram.dice`). Shifts are whole blocks, drawn without repeats, `min_shift` px or more away on
    at least one axis, both ways round. What counts is supervised both where the label lies and where the shifted
    prediction came from. A claim must exceed the 97.5th percentile.

    Returns:
        (n,) or fewer where the region has fewer such shifts; NaN where the overlap lacks a class
        (hence `np.nanquantile`).

    Raises:
        ValueError: the region is too small for any such shift.
    """
    prob, label, mask = as_maps(prob, label, mask)
    shifts = _shifts(prob.shape, min_shift, n, seed, block)
    if threshold is not None:
        predicted, ink = mask & (prob >= threshold), mask & (label > 0)
        return np.array([_shifted_dice(predicted, ink, mask, y * block, x * block) for y, x in shifts])
    blocks = block_scores(prob, label, mask, block=block)
    shape = tuple(-(-side // block) for side in prob.shape)
    held, ink, rank = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape, np.int64)
    held[blocks.row, blocks.col] = True
    ink[blocks.row, blocks.col] = blocks.ink
    # Shifting does not change the order of the scores: sorted once, counted at each shift.
    levels, order = np.unique(blocks.score, return_inverse=True)
    rank[blocks.row, blocks.col] = order.reshape(-1)
    nulls = []
    for shift in shifts:
        both = held & np.roll(held, shift, (0, 1))
        ranks, truth = np.roll(rank, shift, (0, 1))[both], ink[both]
        hits, misses = (
            np.bincount(ranks[truth], minlength=len(levels)),
            np.bincount(ranks[~truth], minlength=len(levels)),
        )
        pairs = float(hits.sum()) * float(misses.sum())
        nulls.append((hits * (misses.cumsum() - misses / 2)).sum() / pairs if pairs else np.nan)
    return np.array(nulls)


def _shifts(shape: tuple[int, ...], min_shift: int, n: int, seed: int, block: int) -> list[tuple[int, int]]:
    """Up to n distinct (rows, columns) shifts in blocks, at least `min_shift` px away around the torus."""
    rows, cols = (-(-side // block) for side in shape)
    y, x = np.mgrid[:rows, :cols]
    away = np.maximum(np.minimum(y, rows - y), np.minimum(x, cols - x)) * block
    allowed = np.flatnonzero(away.ravel() >= max(min_shift, 1))
    if not allowed.size:
        raise ValueError(
            f"a region of {shape[0]}×{shape[1]} px has no shift of {min_shift} px around the torus; "
            f"the largest is {int(away.max(initial=0))}: lower min_shift or take a larger region"
        )
    drawn = np.random.default_rng(seed).permutation(allowed)[:n]
    return [(int(shift) // cols, int(shift) % cols) for shift in drawn]


def _shifted_dice(predicted: NDArray, ink: NDArray, mask: NDArray, dy: int, dx: int) -> float:
    both = mask & np.roll(mask, (dy, dx), (0, 1))
    moved, truth = np.roll(predicted, (dy, dx), (0, 1)) & both, ink & both
    tp = np.count_nonzero(moved & truth)
    return float(dice_of([tp, np.count_nonzero(moved) - tp, np.count_nonzero(truth) - tp]))

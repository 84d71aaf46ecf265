"""Could it be the texture of the map alone? The torus null: the same map, shifted around, scored again."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zoo.metrics import as_maps, block_scores
from zoo.significance import LETTER_PITCH, dice_of


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
    y0: int = 0,
    x0: int = 0,
) -> NDArray[np.float64]:
    """Scores of the same map shifted around the torus: what a map of this texture reaches without reading anything.

    The score is the AUC of blocks (compare with `auc` of `block_scores`), or with a threshold the Dice of pixels
    (compare with `InkHistogram.dice`). Shifts are whole blocks, drawn without repeats, `min_shift` px or more away on
    at least one axis, both ways round. What counts is supervised both where the label lies and where the shifted
    prediction came from. A claim must exceed the 97.5th percentile. `y0`, `x0` say where the map's first pixel lies in
    its fragment, px: blocks follow the fragment's grid, as in `block_scores`.

    Returns:
        (n,) or fewer where the region has fewer such shifts; NaN where the overlap lacks a class
        (hence `np.nanquantile`).

    Raises:
        ValueError: the region is too small for any such shift.
    """
    prob, label, mask = as_maps(prob, label, mask)
    shape = tuple(-(-(start % block + side) // block) for start, side in zip((y0, x0), prob.shape, strict=True))
    shifts = _shifts(prob.shape, shape, min_shift, n, seed, block)
    if threshold is not None:
        predicted, ink = mask & (prob >= threshold), mask & (label > 0)
        return np.array([_shifted_dice(predicted, ink, mask, y * block, x * block) for y, x in shifts])
    blocks = block_scores(prob, label, mask, block=block, y0=y0, x0=x0)
    at = blocks.row - y0 // block, blocks.col - x0 // block
    held, ink, rank = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape, np.int64)
    held[at] = True
    ink[at] = blocks.ink
    # Shifting does not change the order of the scores: sorted once, counted at each shift.
    levels, order = np.unique(blocks.score, return_inverse=True)
    rank[at] = order.reshape(-1)
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


def _shifts(
    shape: tuple[int, ...], blocks: tuple[int, ...], min_shift: int, n: int, seed: int, block: int
) -> list[tuple[int, int]]:
    """Up to n distinct (rows, columns) shifts in blocks, at least `min_shift` px away around the torus."""
    rows, cols = blocks
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

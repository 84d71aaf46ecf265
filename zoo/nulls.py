"""Could it be the texture of the map alone? The torus null: the same map, shifted around, scored again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_recipes.regions import Rect
from zoo.metrics import BlockScores
from zoo.significance import LETTER_PITCH


def torus_null(
    blocks: BlockScores, rect: Rect, *, block: int = 16, min_shift: int = LETTER_PITCH, n: int = 200, seed: int = 0
) -> NDArray[np.float64]:
    """AUC of the same map shifted around the torus: what a map of this texture reaches without reading anything.

    Shifts are whole blocks, drawn without repeats, `min_shift` px or more away on at least one axis, both ways round.
    What counts is supervised both where the label lies and where the shifted prediction came from. A claim, the AUC of
    the unshifted blocks, must exceed the 97.5th percentile.

    Args:
        blocks: `block_scores` of the region, in blocks of `block` px on the fragment's grid.
        rect: the region in its fragment, px; around it the torus is closed.

    Returns:
        (n,) or fewer where the region has fewer such shifts; NaN where the overlap lacks a class
        (hence `np.nanquantile`).

    Raises:
        ValueError: the region is too small for any such shift.
    """
    top, left = rect.y0 // block, rect.x0 // block
    shape = -(-rect.y1 // block) - top, -(-rect.x1 // block) - left
    shifts = _shifts((rect.height, rect.width), shape, min_shift, n, seed, block)
    at = blocks.row - top, blocks.col - left
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

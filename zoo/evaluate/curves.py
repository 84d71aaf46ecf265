"""A map at every threshold: precision and recall, ROC, Dice."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.metrics import BINS, InkHistogram, threshold_at

_ROUNDING = 0.01  # of a bin: by so much a threshold may lie below its edge, so that it can be told in few digits

Values = NDArray[np.float64]


class Curves(NamedTuple):
    """One entry a threshold, from the lowest (all is ink) to the highest (nothing is); NaN where there is no value.

    Only thresholds between which a pixel lies: a map of 255 grey values has no more than so many.
    """

    threshold: Values  # the last is above 1
    precision: Values  # NaN where nothing is predicted
    recall: Values  # also the true positive rate; NaN without ink
    false_positive_rate: Values  # NaN without blank
    dice: Values


def best_threshold(histogram: InkHistogram) -> float:
    """The threshold of the curve's highest Dice, in as few decimals as tell it; .5 where there is no ink.

    Of a plateau one near its middle. It is a number to be told, stored and given again: nothing of it is rounded off.
    """
    if not histogram.counts[1].any():
        return 0.5
    held = np.flatnonzero(histogram.counts.sum(0))
    at = int(np.nanargmax(curves(histogram).dice[:-1]))
    high = threshold_at(int(held[at]))
    low = threshold_at(int(held[at - 1]) + 1) if at else 0.0
    low = min(low, high - _ROUNDING * (high - threshold_at(int(held[at]) - 1)))
    rounded = (round((low + high) / 2, digits) for digits in range(1, 17))
    return next((value for value in rounded if low <= value <= high), high)


def is_binary(histogram: InkHistogram) -> bool:
    """Whether what counts of a map is 0 or 1 and nothing between them, and both of them."""
    return np.flatnonzero(histogram.counts.sum(0)).tolist() == [0, BINS - 1]


def curves(histogram: InkHistogram) -> Curves:
    """From the 1024 bins of a map's histogram."""
    blank, ink = histogram.counts
    held = np.flatnonzero(blank + ink)
    edges = np.concatenate([held, [BINS]])
    tp, fp = (np.append(row[::-1].cumsum()[::-1], 0)[edges].astype(float) for row in (ink, blank))
    fn = ink.sum() - tp
    with np.errstate(invalid="ignore", divide="ignore"):
        return Curves(
            np.array([threshold_at(int(edge)) for edge in held] + [np.nextafter(1, 2)]),
            tp / (tp + fp),
            tp / ink.sum(),
            fp / blank.sum(),
            2 * tp / (2 * tp + fp + fn),
        )

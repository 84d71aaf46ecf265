"""A map at every threshold: precision and recall, ROC, Dice."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.metrics import BINS, InkHistogram, threshold_at

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

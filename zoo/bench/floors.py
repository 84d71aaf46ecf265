"""Predictors that never look at the volume. A claim must exceed them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d

from data_recipes.fragment import Fragment
from data_recipes.regions import Rect, Region

_SMOOTH_PX = 96

FloatMap = NDArray[np.float32]
Predict = Callable[[Fragment, Rect], FloatMap]
"""(fragment, rectangle of H×W px) -> ink probability (H, W)."""


def fit_allink(fragments: Mapping[str, Fragment], train: Region) -> Predict:
    """Everything is ink."""
    del fragments, train
    return lambda fragment, rect: np.ones((rect.height, rect.width), np.float32)


def fit_layout(fragments: Mapping[str, Fragment], train: Region) -> Predict:
    """The ink frequency of each row and of each column of the training region, by position.

    Lines of writing run on from the training region into the test region; whatever this scores needs no CT. Counts are
    smoothed over 96 px (a floor that is needlessly weak flatters every model), log odds of row and column are added; a
    position that the training region does not reach has the overall frequency.
    """
    height = max(fragments[name].shape[0] for name in train)
    width = max(fragments[name].shape[1] for name in train)
    counts = {"rows": np.zeros((2, height)), "columns": np.zeros((2, width))}
    for name, rects in train.items():
        fragment = fragments[name]
        assert fragment.label is not None
        for rect in rects:
            for top in range(rect.y0, rect.y1, 512):  # bands, so that memory does not grow with the fragment
                band = Rect(top, min(top + 512, rect.y1), rect.x0, rect.x1)
                counted = fragment.papyrus[band.slices] & fragment.supervised[band.slices]
                ink = (fragment.label[band.slices] > 0) & counted
                for kind, plane in enumerate((ink, counted)):
                    counts["rows"][kind, band.y0 : band.y1] += plane.sum(1)
                    counts["columns"][kind, band.x0 : band.x1] += plane.sum(0)
    prior = (counts["rows"][0].sum() + 1) / (counts["rows"][1].sum() + 2)
    prior_odds = np.log(prior / (1 - prior))
    # The prior weighs as much as a hundred pixels, so that a row with a few pixels does not claim certainty.
    odds = {}
    for axis, count in counts.items():
        ink, total = uniform_filter1d(count, _SMOOTH_PX, axis=1, mode="constant") * _SMOOTH_PX
        share = (ink + 100 * prior) / (total + 100)
        odds[axis] = np.log(share / (1 - share)) - prior_odds

    def predict(fragment: Fragment, rect: Rect) -> FloatMap:
        del fragment
        rows = _at(odds["rows"], rect.y0, rect.y1)
        columns = _at(odds["columns"], rect.x0, rect.x1)
        return (1 / (1 + np.exp(-(prior_odds + rows[:, None] + columns[None])))).astype(np.float32)

    return predict


def _at(odds: NDArray[np.float64], start: int, stop: int) -> NDArray[np.float64]:
    out = np.zeros(stop - start)
    known = odds[start : min(stop, len(odds))]
    out[: len(known)] = known
    return out


FLOORS: dict[str, Callable[[Mapping[str, Fragment], Region], Predict]] = {"allink": fit_allink, "layout": fit_layout}

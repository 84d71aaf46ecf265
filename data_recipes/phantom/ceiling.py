"""How well ink can be told by somebody who knows the generator: the score to measure models by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, stats

APERTURES = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
"""Deviations of the in-plane Gaussian that gathers the response, px; the best is taken."""


@dataclass(frozen=True)
class Ceiling:
    """Scores of the matched filter against the exact label, over the papyrus."""

    auc: float
    dice: float
    """At its best threshold."""
    aperture: float
    """The best in-plane width, px."""


def auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve from ranks; NaN when one class is absent."""
    positive = int(truth.sum())
    negative = truth.size - positive
    if not positive or not negative:
        return float("nan")
    ranks = stats.rankdata(scores)
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


def best_dice(scores: np.ndarray, truth: np.ndarray) -> float:
    """The largest Dice that any threshold reaches."""
    hits = np.cumsum(truth[np.argsort(-scores)])
    return float((2 * hits / (np.arange(1, truth.size + 1) + truth.sum())).max()) if truth.any() else float("nan")


def matched_filter(
    volume: np.ndarray, depth: np.ndarray, template: np.ndarray, ink: np.ndarray, papyrus: np.ndarray
) -> Ceiling:
    """Correlates every column with the ink's own profile at the true surface, whitened over Z, and gathers in-plane.

    volume, depth, template (Z,H,W); ink, papyrus (H,W). The whitening uses the layers' covariance (of the whole volume,
    layers in the flattened frame); the gathering is a Gaussian of the best of APERTURES, because the filter knows the
    template but not where letters stand. Scored on every third pixel in each direction.
    """
    layers = volume.shape[0]
    grey = volume.astype(np.float32)
    samples = grey[:, papyrus][:, ::7]
    covariance = np.cov(samples) + 4.0 * np.eye(layers)
    whitener = np.linalg.inv(covariance).astype(np.float32)
    grey -= ndimage.uniform_filter(grey.mean(0), 25)
    response = (np.tensordot(whitener, grey, 1) * template).sum(0)
    weight = papyrus.astype(np.float32)
    inside = papyrus[::3, ::3]
    truth = ink[::3, ::3][inside]
    best = Ceiling(float("nan"), float("nan"), APERTURES[0])
    for aperture in APERTURES:
        gathered = ndimage.gaussian_filter(response * weight, aperture)
        gathered = (gathered / np.maximum(ndimage.gaussian_filter(weight, aperture), 1e-3))[::3, ::3][inside]
        score = auc(gathered, truth)
        if not best.auc >= score:
            best = Ceiling(score, best_dice(gathered, truth), aperture)
    return best

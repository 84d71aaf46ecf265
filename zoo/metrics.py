"""Quality of an ink map, from counts: accumulated over whole fragments, in any order and in bands, divided once.

Maps are (H, W) numpy arrays: `prob` from 0 to 1, `label` (ink is above 0), `mask` bool (papyrus and supervised); a
pixel outside the mask never counts, whatever it holds.

What has no value is NaN, never an exception: everything without pixels; AUC where one of the two classes is missing;
AP and lift without ink. Dice, IoU and F are 1 where there is neither ink nor predicted ink, and 0 where there is only
one of the two.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 1024
LOGIT_RANGE = 12.0
_STEP = 2 * LOGIT_RANGE / BINS


class Confusion(NamedTuple):
    """Pixel counts at one threshold, and the scores that need no more than these."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def pixels(self) -> int:
        return sum(self)

    def fbeta(self, beta: float) -> float:
        """(1+β²)·TP / ((1+β²)·TP + β²·FN + FP); β = 1 is Dice."""
        tp, fp, fn, _ = self
        return _fbeta(tp, fp, fn, beta) if self.pixels else np.nan

    def iou(self) -> float:
        """TP / (TP + FP + FN)."""
        tp, fp, fn, _ = self
        if not self.pixels:
            return np.nan
        return tp / (tp + fp + fn) if tp + fp + fn else 1.0

    def accuracy(self) -> float:
        return _ratio(self.tp + self.tn, self.pixels)

    def precision(self) -> float:
        """TP / (TP + FP), NaN where no ink is predicted."""
        return _ratio(self.tp, self.tp + self.fp)

    def recall(self) -> float:
        """TP / (TP + FN), NaN where there is no ink."""
        return _ratio(self.tp, self.tp + self.fn)


class Reliability(NamedTuple):
    """One entry an interval of probability: where a calibrated map has both alike."""

    probability: NDArray[np.float64]  # mean of the interval's pixels
    ink: NDArray[np.float64]  # ink's share of them
    pixels: NDArray[np.int64]


@dataclass(eq=False)
class InkHistogram:
    """Counts of pixels by predicted probability, ink apart from blank.

    1024 bins uniform in logit from -12 to 12 (the outermost take what lies beyond), so that thresholds are resolved
    finely near 0 and 1 too. A threshold t means ink where prob ≥ t; it is moved to the nearest bin edge, which is at
    most .006 away (at .5, itself an edge), and thresholds from `best_threshold` are edges.

    Attributes:
        counts: (2, 1024) int64; row 0 blank pixels, row 1 ink.
    """

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, BINS), np.int64))

    def add(self, prob: ArrayLike, label: ArrayLike, mask: ArrayLike | None = None) -> InkHistogram:
        """Count the pixels of a map, or of a band of one; returns itself.

        Raises:
            ValueError: shapes differ; a supervised probability is NaN or outside 0 to 1.
        """
        prob, label, mask = as_maps(prob, label, mask)
        bins = _bin(prob[mask])
        ink = label[mask] > 0
        self.counts += np.bincount(bins + BINS * ink, minlength=2 * BINS).reshape(2, BINS)
        return self

    def __add__(self, other: InkHistogram) -> InkHistogram:
        return InkHistogram(self.counts + other.counts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InkHistogram) and bool((self.counts == other.counts).all())

    __hash__ = None  # type: ignore[assignment]  # it is added to

    @property
    def pixels(self) -> int:
        return int(self.counts.sum())

    def prevalence(self) -> float:
        """Ink's share of the supervised pixels."""
        return _ratio(self.counts[1].sum(), self.pixels)

    def confusion(self, threshold: float) -> Confusion:
        edge = _edge(threshold)
        fn, tp = self.counts[1, :edge].sum(), self.counts[1, edge:].sum()
        tn, fp = self.counts[0, :edge].sum(), self.counts[0, edge:].sum()
        return Confusion(int(tp), int(fp), int(fn), int(tn))

    def dice(self, threshold: float) -> float:
        """2·TP / (2·TP + FP + FN)."""
        return self.fbeta(threshold, 1.0)

    def fbeta(self, threshold: float, beta: float) -> float:
        """(1+β²)·TP / ((1+β²)·TP + β²·FN + FP)."""
        return self.confusion(threshold).fbeta(beta)

    def iou(self, threshold: float) -> float:
        """TP / (TP + FP + FN)."""
        return self.confusion(threshold).iou()

    def accuracy(self, threshold: float) -> float:
        return self.confusion(threshold).accuracy()

    def best_threshold(self, beta: float = 1.0) -> float:
        """The bin edge with the highest F-beta (β = 1: Dice), the middle one of a plateau; .5 where there is no ink.

        To be asked of predictions on pixels that were neither trained on nor tested.
        """
        if not self.counts[1].any():
            return 0.5
        ink, blank = self.counts[1], self.counts[0]
        tp = ink[::-1].cumsum()[::-1]
        fp = blank[::-1].cumsum()[::-1]
        squared = beta * beta
        # tp + fp + fn > 0 at every edge, as there is ink; the denominator is β²·(tp + fn) + (tp + fp).
        score = (1 + squared) * tp / (squared * ink.sum() + tp + fp)
        best = score.argmax()
        after = np.flatnonzero(score[best:] != score[best])
        last = best + (after[0] - 1 if after.size else BINS - 1 - best)
        return threshold_at(int(best + last + 1) // 2)

    def auc(self) -> float:
        """Area under the ROC curve over pixels, pairs in one bin counting half."""
        blank, ink = self.counts.astype(float)
        below = blank.cumsum() - blank
        return _ratio((ink * (below + blank / 2)).sum(), ink.sum() * blank.sum())

    def ap(self) -> float:
        """Average precision: precision at each bin edge, weighted by the recall that the bin adds."""
        blank, ink = self.counts[:, ::-1].astype(float)
        tp, predicted = ink.cumsum(), (ink + blank).cumsum()
        return _ratio((ink * tp / predicted.clip(1)).sum(), ink.sum())

    def lift(self) -> float:
        """AP over prevalence: 1 is what guessing reaches."""
        return _ratio(self.ap(), self.prevalence())

    def calibration_error(self, groups: int = 15) -> float:
        """Expected calibration error: |mean probability − ink's share|, over `groups` equal intervals of probability,
        weighted by pixels (Naeini, Cooper, Hauskrecht 2015). Probabilities are taken at bin centres."""
        expected, actual, _ = self._by_probability(groups)
        return _ratio(np.abs(expected - actual).sum(), self.pixels)

    def reliability(self, groups: int = 15) -> Reliability:
        """What `calibration_error` sums up: one entry for each of the intervals that holds a pixel."""
        expected, actual, pixels = self._by_probability(groups)
        held = pixels > 0
        return Reliability(expected[held] / pixels[held], actual[held] / pixels[held], pixels[held])

    def _by_probability(self, groups: int) -> tuple[NDArray, NDArray, NDArray]:
        """(summed probability, ink pixels, pixels) of each of `groups` equal intervals of probability."""
        centre = 1 / (1 + np.exp(LOGIT_RANGE - _STEP * (np.arange(BINS) + 0.5)))
        group = np.minimum((centre * groups).astype(int), groups - 1)
        pixels = np.bincount(group, self.counts.sum(0), groups).astype(np.int64)
        return (
            np.bincount(group, centre * self.counts.sum(0), groups),
            np.bincount(group, self.counts[1], groups),
            pixels,
        )


class BlockScores(NamedTuple):
    """One entry a block that is mostly supervised."""

    score: NDArray[np.float64]  # mean probability of its supervised pixels
    ink: NDArray[np.bool_]  # more than half of its supervised pixels are ink
    row: NDArray[np.int64]  # block row and column in the fragment's grid
    col: NDArray[np.int64]


def block_scores(
    prob: ArrayLike, label: ArrayLike, supervised: ArrayLike, *, block: int = 16, y0: int = 0, x0: int = 0
) -> BlockScores:
    """Reduce a map to blocks of `block` × `block` px, of which more than half is supervised.

    Args:
        prob, label, supervised: (H, W).
        y0, x0: where the map's first pixel lies in its fragment, px: the grid is the fragment's, so that parts of one
            fragment share their blocks.
    """
    total, ink, pixels = block_sums(prob, label, supervised, block=block, y0=y0, x0=x0)
    row, col = np.nonzero(pixels > block * block / 2)
    count = pixels[row, col]
    return BlockScores(
        total[row, col] / count, ink[row, col] > count / 2, row + y0 // block, col + x0 // block
    )  # fmt: skip


def block_sums(
    prob: ArrayLike, label: ArrayLike, mask: ArrayLike | None, *, block: int, y0: int = 0, x0: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """(sum of probability, ink pixels, supervised pixels) of every block, each (rows, columns)."""
    prob, label, mask = as_maps(prob, label, mask)
    if mask.any() and not np.isfinite(prob[mask]).all():
        raise ValueError("the map holds NaN or infinite probabilities where it is supervised")
    return (
        block_sum(np.where(mask, prob, 0), block, y0, x0),
        block_sum(mask & (label > 0), block, y0, x0),
        block_sum(mask, block, y0, x0),
    )


def block_sum(image: NDArray, block: int, y0: int = 0, x0: int = 0) -> NDArray:
    """(H, W) -> (rows, columns): sums over blocks of the fragment's grid; bool counts as int64."""
    dtype = np.float64 if image.dtype.kind == "f" else np.int64
    for axis, start in ((0, y0 % block), (1, x0 % block)):
        length = image.shape[axis]
        if not length:
            return np.zeros((0, 0), dtype)
        edges = np.maximum(np.arange(0, start + length, block) - start, 0)
        image = np.add.reduceat(image, edges, axis=axis, dtype=dtype)
    return image


def auc(scores: ArrayLike, truth: ArrayLike) -> float:
    """Area under the ROC curve; equal scores count half. NaN where one class is missing."""
    return auc_within_rows(scores, truth, np.zeros(np.size(scores), np.int64))


def auc_within_rows(scores: ArrayLike, truth: ArrayLike, row: ArrayLike) -> float:
    """Share of (ink, blank) pairs of one row in which ink scores higher, over all rows' pairs together.

    What the height of a line of writing tells is worth nothing here. NaN where no row holds both.

    Args:
        scores, truth, row: (N,) each.
    """
    scores, truth, row = np.asarray(scores, float), np.asarray(truth, bool), np.asarray(row)
    if not scores.shape == truth.shape == row.shape or scores.ndim != 1:
        raise ValueError(f"scores {scores.shape}, truth {truth.shape} and row {row.shape} must be (N,), of one length")
    if not scores.size:
        return np.nan
    order = np.lexsort((scores, row))
    scores, truth, row = scores[order], truth[order], row[order]
    new_row = np.append(True, row[1:] != row[:-1])
    new_tie = new_row | np.append(True, scores[1:] != scores[:-1])
    tie, start = np.cumsum(new_tie) - 1, np.flatnonzero(new_tie)
    ink = np.bincount(tie, truth)
    blank = np.bincount(tie, ~truth)
    line = np.cumsum(new_row)[start] - 1
    blank_in_line = np.bincount(line, blank)
    below = np.cumsum(blank) - blank - (np.cumsum(blank_in_line) - blank_in_line)[line]
    pairs = (np.bincount(line, ink) * blank_in_line).sum()
    return _ratio((ink * (below + blank / 2)).sum(), pairs)


def threshold_at(edge: int) -> float:
    """Probability at the lower edge of bin `edge`; 0 for the first, which holds everything below too."""
    return 0.0 if edge <= 0 else float(1 / (1 + np.exp(LOGIT_RANGE - _STEP * edge)))


def _edge(threshold: float) -> int:
    """The bin edge nearest to a threshold: 0 calls everything ink, 1024 (above 1) nothing."""
    if np.isnan(threshold):
        raise ValueError("threshold is NaN; a number from 0 (all is ink) on, above 1 nothing is ink")
    if threshold <= 0 or threshold > 1:
        return 0 if threshold <= 0 else BINS
    with np.errstate(divide="ignore"):
        logit = np.log(threshold) - np.log1p(-threshold)
    return int(np.clip(np.rint((logit + LOGIT_RANGE) / _STEP), 1, BINS - 1))


def _bin(prob: NDArray) -> NDArray[np.int64]:
    if prob.size and not (prob.min() >= 0 and prob.max() <= 1):  # false for NaN too
        raise ValueError(
            f"probabilities from 0 to 1 are expected, got {prob.min()} to {prob.max()}; "
            "apply the sigmoid to logits first, and look for NaN in the model's output"
        )
    prob = prob.astype(np.float64 if prob.dtype == np.float64 else np.float32)
    with np.errstate(divide="ignore"):
        logit = np.log(prob) - np.log1p(-prob)
    # The nudge keeps a probability that was computed as an edge on the upper side of it.
    position = (logit + LOGIT_RANGE) / _STEP + 1e-3
    return np.clip(position, 0, BINS - 1).astype(np.int64)


def as_maps(prob: ArrayLike, label: ArrayLike, mask: ArrayLike | None) -> tuple[NDArray, NDArray, NDArray[np.bool_]]:
    prob, label = np.asarray(prob), np.asarray(label)
    mask = np.ones(prob.shape, bool) if mask is None else np.asarray(mask, bool)
    if not prob.shape == label.shape == mask.shape:
        raise ValueError(f"map {prob.shape}, label {label.shape} and mask {mask.shape} must be of one shape")
    return prob, label, mask


def _fbeta(tp: float, fp: float, fn: float, beta: float) -> float:
    if not tp + fp + fn:
        return 1.0
    squared = beta * beta
    return float((1 + squared) * tp / ((1 + squared) * tp + squared * fn + fp))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else np.nan

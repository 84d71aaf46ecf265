"""Scores of several classes, from counts over whole regions that are divided once."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


class ClassCounts:
    """Pixels by their label's class and by the class that a map gives them.

    Attributes:
        counts: (C, C) int64; row: the label's class, column: the map's. Class 0 is the background.
    """

    def __init__(self, classes: int):
        self.counts: NDArray[np.int64] = np.zeros((classes, classes), np.int64)

    def add(self, prob: NDArray[np.floating], label: ArrayLike, mask: ArrayLike) -> ClassCounts:
        """Count a band of a map: prob (C, H, W), of which the largest is the map's class (the first of equal ones),
        label (H, W) class index, mask (H, W) bool, outside which nothing counts. Returns itself.

        Raises:
            ValueError: as many classes as these counts do not have; a supervised label of a class that is not there.
        """
        classes = len(self.counts)
        label, mask = np.asarray(label), np.asarray(mask, bool)
        if prob.ndim != 3 or len(prob) != classes or prob.shape[1:] != label.shape or label.shape != mask.shape:
            raise ValueError(
                f"got probabilities {prob.shape}, label {label.shape} and mask {mask.shape}; "
                f"expected ({classes}, H, W) and twice (H, W)"
            )
        truth = label[mask].astype(np.int64)
        if truth.size and truth.max() >= classes:
            raise ValueError(
                f"the label holds class {truth.max()}, the suite has {classes} classes (0 to {classes - 1}); "
                "set its classes, or label_values in the fragment's fragment.yaml"
            )
        found = prob.argmax(axis=0)[mask]
        self.counts += np.bincount(truth * classes + found, minlength=classes**2).reshape(classes, classes)
        return self

    def __iadd__(self, other: ClassCounts) -> ClassCounts:
        self.counts += other.counts
        return self

    def accuracy(self) -> float:
        """Share of pixels whose class is right; NaN without pixels."""
        return float(np.trace(self.counts) / self.counts.sum()) if self.counts.any() else np.nan

    def dice(self) -> NDArray[np.float64]:
        """(C,) 2·TP / (2·TP + FP + FN) of each class; NaN for one that neither label nor map has."""
        sizes = (self.counts.sum(0) + self.counts.sum(1)).astype(np.float64)
        return np.divide(2 * np.diagonal(self.counts), sizes, out=np.full(len(sizes), np.nan), where=sizes > 0)

    def mean_dice(self) -> float:
        """Mean over the classes that label or map has, the background among them; NaN without pixels.

        In a micrograph the darkest phase is as much a phase as the others. The steel study does not say whether its
        figure leaves class 0 out; for that definition take the mean of `dice_class_1` and those after it.
        """
        dice = self.dice()
        return float(np.nanmean(dice)) if np.isfinite(dice).any() else np.nan

    def quality(self) -> dict[str, float]:
        """class_accuracy, mean_dice and dice_class_0 …; empty where no map of classes was counted."""
        if not self.counts.any():
            return {}
        each = {f"dice_class_{index}": float(value) for index, value in enumerate(self.dice())}
        return {"class_accuracy": self.accuracy(), "mean_dice": self.mean_dice(), **each}

"""From predicted maps to numbers: threshold on the calibration region, everything else on the test region."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_recipes.fragment import Fragment
from data_recipes.regions import Rect
from data_recipes.split import Fold
from zoo import metrics
from zoo.bench.classes import ClassCounts
from zoo.bench.floors import FloatMap, Predict
from zoo.bench.names import slug
from zoo.bench.shapes import Shapes, ink_plane, label_agreement, shapes_of
from zoo.nulls import torus_null
from zoo.significance import LETTER_PITCH, letter_blocks

BLOCK_FILE = "blocks.npz"
AUC_BLOCK = 16  # px; labels of real ink are misplaced by about as much, so finer agreement is not to be had
ROW_STRIDE = 2**20  # block rows from one region's first to the next one's; a multiple of any letter's blocks
_BAND = 2048  # rows predicted at once, about, so that memory does not grow with the fragment

Quality = dict[str, float | None]


@dataclass(frozen=True)
class Outcome:
    """What scoring found.

    Attributes:
        threshold: ink is where the probability is no lower.
        quality: over all test pixels; of several classes also what `ClassCounts.quality` gives.
        per_fragment: the same for each fragment alone, with `null_high`, and `null_auc` to compare it with, which is
            `auc_blocks` of the same rectangle; and where it has a second label with `label_agreement_dice`, `_f05`,
            `_accuracy` and `_surface_dice`: that label scored as if it were a map.
        controls: what says how far to trust them. `null_auc` and `null_high` are those of the fragment on which the
            first exceeds the second least. `label_agreement` is None where no test fragment has a second label, else
            `dice`, `f05`, `accuracy` and `surface_dice` over those that have one, and their `pixels`.
    """

    threshold: float
    quality: Quality
    per_fragment: dict[str, Quality]
    controls: dict[str, Any]


def score(
    predict: Predict,
    fragments: Mapping[str, Fragment],
    fold: Fold,
    *,
    folder: Path,
    letter_px: int,
    classes: int = 1,
    fixed: bool = False,
) -> Outcome:
    """Score a predictor on a fold and leave its maps (map_FRAGMENT.npy) and block counts in `folder`.

    A predictor that answers with the probabilities of all `classes`, (C, H, W), is scored on ink, which is all but
    class 0, and besides on its map of classes; it is asked for a band at a time.

    The threshold maximises Dice on the calibration region: training-side pixels at their natural prevalence that the
    model was not fitted to. `fixed` takes .5 instead, for a predictor with one value.
    """
    calibration = metrics.InkHistogram()
    for name, rects in fold.calibration.items():
        for rect in rects:
            for band in _bands(rect, letter_px):
                prob, _ = _predict(predict, fragments[name], band)
                calibration.add(prob, *_truth(fragments[name], band))
    threshold = 0.5 if fixed else calibration.best_threshold()

    total = metrics.InkHistogram()
    per_fragment: dict[str, Quality] = {}
    regions: list[_Region] = []
    shapes, agreement, of_classes = Shapes(), Shapes(), ClassCounts(classes)
    for name, rects in fold.test.items():
        own, own_classes, found = metrics.InkHistogram(), ClassCounts(classes), []
        outline = bounding(rects)
        saved = np.lib.format.open_memmap(
            folder / map_name(name), mode="w+", dtype=np.float16, shape=(outline.height, outline.width)
        )
        with ink_plane(folder, outline, fragments[name].shape) as called:
            for rect in rects:
                for band in _bands(rect, letter_px):
                    prob, each = _predict(predict, fragments[name], band)
                    label, mask = _truth(fragments[name], band)
                    own.add(prob, label, mask)
                    if each is not None:
                        own_classes.add(each, label, mask)
                    found.append(_region(prob, label, mask, threshold, letter_px, band))
                    saved[band.shift(-outline.y0, -outline.x0).slices] = prob
                    called.mark(band, prob >= threshold)
            saved.flush()
            drawn = shapes_of(called, fragments[name], rects)
        of_labels = label_agreement(fragments[name], rects)
        per_fragment[name] = {
            **_quality(own, found, drawn, own_classes, threshold),
            **_null(max(rects, key=lambda rect: rect.area), found),
            **(_numbers(of_labels.agreement(), "label_agreement_") if of_labels else {}),
        }
        total = total + own
        regions += found
        shapes += drawn
        of_classes += own_classes
        agreement += of_labels or Shapes()
    blocks = _joined(regions)
    np.savez_compressed(
        folder / BLOCK_FILE,
        counts=np.concatenate([region.counts for region in regions]),
        pixels=np.concatenate([region.pixels for region in regions]),
        **blocks._asdict(),
    )
    quality = _quality(total, regions, shapes, of_classes, threshold)
    blank = sum(region.blank_px for region in regions)
    controls = {
        **_nearest_null(per_fragment.values()),
        "false_ink_on_blank": sum(region.false_px for region in regions) / blank if blank else None,
        "blank_px": blank,
        "calibration_px": calibration.pixels,
        "calibration_dice": _number(calibration.dice(threshold)),
        "label_agreement": _agreement(agreement),
    }
    return Outcome(threshold, quality, per_fragment, controls)


@dataclass(frozen=True)
class _Region:
    """What is kept of one scored band: counts a letter-sized block, and its 16-px blocks."""

    rect: Rect
    counts: NDArray[np.int64]  # (blocks, 3): true positives, false positives, false negatives
    pixels: NDArray[np.int64]  # (blocks,) that count
    blocks: metrics.BlockScores
    blank_px: int
    false_px: int


def _region(
    prob: FloatMap, label: NDArray[Any], mask: NDArray[np.bool_], threshold: float, letter_px: int, rect: Rect
) -> _Region:
    place = {"y0": rect.y0, "x0": rect.x0}
    counts = letter_blocks(prob, label, mask, threshold, block=letter_px, **place)
    pixels = metrics.block_sum(mask, letter_px, **place)
    pixels = pixels[pixels > 0]
    blank = counts[:, 0] + counts[:, 2] == 0
    return _Region(
        rect,
        counts,
        pixels,
        metrics.block_scores(prob, label, mask, block=AUC_BLOCK, **place),
        blank_px=int(pixels[blank].sum()),
        false_px=int(counts[blank, 1].sum()),
    )


def _joined(regions: list[_Region]) -> metrics.BlockScores:
    """All blocks; a row of one region is not a row of another, though both have the same number."""
    parts = [region.blocks._replace(row=region.blocks.row + index * ROW_STRIDE) for index, region in enumerate(regions)]
    return metrics.BlockScores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _quality(
    histogram: metrics.InkHistogram, regions: list[_Region], shapes: Shapes, classes: ClassCounts, threshold: float
) -> Quality:
    blocks = _joined(regions)
    values = {
        "dice": histogram.dice(threshold),
        "f05": histogram.fbeta(threshold, 0.5),
        "iou": histogram.iou(threshold),
        "accuracy": histogram.accuracy(threshold),
        "auc": histogram.auc(),
        "auc_blocks": metrics.auc(blocks.score, blocks.ink),
        "auc_rows": metrics.auc_within_rows(blocks.score, blocks.ink, blocks.row),
        "ap": histogram.ap(),
        "ap_lift": histogram.lift(),
        "prevalence": histogram.prevalence(),
        "ece": histogram.calibration_error(),
        **shapes.quality(),
        **classes.quality(),
    }
    return _numbers(values)


def _agreement(shapes: Shapes) -> Quality | None:
    pixels = shapes.surface.pixels
    return {**_numbers(shapes.agreement()), "pixels": pixels} if pixels else None


def _null(rect: Rect, found: Sequence[_Region]) -> Quality:
    """`null_auc`: 16-px block AUC of the rectangle; `null_high`: 97.5th percentile of it when its map is shifted around
    the torus. None where the rectangle is too small to shift by a letter.

    `found`: of all rectangles of the fragment.
    """
    if max(rect.height, rect.width) < 2 * LETTER_PITCH:
        return {"null_auc": None, "null_high": None}
    parts = [region.blocks for region in found if region.rect.intersect(rect)]
    blocks = metrics.BlockScores(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    scores = torus_null(blocks, rect, block=AUC_BLOCK)
    high = float(np.nanquantile(scores, 0.975)) if np.isfinite(scores).any() else float("nan")
    return _numbers({"null_auc": metrics.auc(blocks.score, blocks.ink), "null_high": high})


def _nearest_null(scores: Iterable[Quality]) -> Quality:
    """`null_auc` and `null_high` of the fragment on which the first exceeds the second least; None without any null."""
    pairs = [(each["null_auc"], each["null_high"]) for each in scores]
    known = [(auc, high) for auc, high in pairs if auc is not None and high is not None]
    auc, high = min(known, key=lambda pair: pair[0] - pair[1]) if known else (None, None)
    return {"null_auc": auc, "null_high": high}


def _predict(predict: Predict, fragment: Fragment, rect: Rect) -> tuple[FloatMap, FloatMap | None]:
    """Ink probability (H, W), and that of each class (C, H, W) where the predictor gives it."""
    found = predict(fragment, rect)
    each = found if found.ndim == 3 else None
    # Blending weights sum to one up to rounding, so a map may leave [0, 1] by one part in 10⁷.
    return np.clip(found if each is None else each[1:].sum(axis=0), 0.0, 1.0), each


def _truth(fragment: Fragment, rect: Rect) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    if fragment.label is None:
        raise ValueError(f"{fragment.name}: has no ink label, so nothing can be scored on it")
    return fragment.label[rect.slices], fragment.papyrus[rect.slices] & fragment.supervised[rect.slices]


def _bands(rect: Rect, letter_px: int) -> Iterator[Rect]:
    """Bands whose inner borders are those of the fragment's blocks, of either size, so that none is cut in two."""
    both = math.lcm(letter_px, AUC_BLOCK)
    step = both * max(1, _BAND // both)
    edges = [rect.y0, *range((rect.y0 // step + 1) * step, rect.y1, step), rect.y1]
    return (Rect(top, bottom, rect.x0, rect.x1) for top, bottom in pairwise(edges))


def bounding(rects: Sequence[Rect]) -> Rect:
    """The smallest rectangle that holds all of them."""
    y0, y1, x0, x1 = zip(*rects, strict=True)
    return Rect(min(y0), max(y1), min(x0), max(x1))


def map_name(fragment: str) -> str:
    """File name of a fragment's map in a run's folder: float16 (H, W) of its test region's bounding rectangle."""
    return f"map_{slug(fragment)}.npy"


def _numbers(values: Mapping[str, float], prefix: str = "") -> Quality:
    return {prefix + key: _number(value) for key, value in values.items()}


def _number(value: float) -> float | None:
    """JSON has no NaN: what cannot be computed is null."""
    return None if np.isnan(value) else float(value)

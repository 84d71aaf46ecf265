"""The picture of `zoo.evaluate`: where the map is right, and how it does at every threshold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from data_recipes.files import whole_file
from zoo.evaluate.curves import Curves
from zoo.evaluate.score import Evaluation, Reduced

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"right": "#0072b2", "missed": "#f0c000", "false": "#d55e00"}
"""Ink found, ink not found, blank taken for ink: told apart by colour-blind readers too, and by their lightness."""

_NOT_COUNTED = 247
_LINE = "#333333"
_DPI = 150
_SIDE = 1600 / _DPI  # inches of the map's longest side: a pixel of the picture a cell of the map


def draw_evaluation(evaluation: Evaluation, lines: Curves, title: str, path: Path) -> None:
    """Write the picture as a PNG, whole or not at all."""
    rows, columns = evaluation.picture.pixels.shape
    scale = _SIDE / max(rows, columns)
    height, width = max(rows * scale, 1), max(columns * scale, 1)
    if rows > 0.6 * columns:  # the curves in a column beside the map, or in a row below a wide one
        panel = max(height / 4, 2.4)
        figure = Figure(figsize=(max(width, 7) + panel + 1.2, 4 * panel + 1), layout="constrained")
        grid = figure.add_gridspec(4, 2, width_ratios=[max(width, 7), panel])
        places = [grid[:, 0], *(grid[row, 1] for row in range(4))]
    else:
        panel = width / 4
        figure = Figure(figsize=(width + 1, height + panel + 1.6), layout="constrained")
        grid = figure.add_gridspec(2, 4, height_ratios=[height + 0.6, panel])
        places = [grid[0, :], *(grid[1, column] for column in range(4))]
    shown, precision, roc, dice, reliability = (figure.add_subplot(place) for place in places)
    _map(shown, evaluation)
    _precision(precision, evaluation, lines)
    _roc(roc, evaluation, lines)
    draw_dice(dice, evaluation, lines)
    _reliability(reliability, evaluation)
    figure.suptitle(title, fontsize=11, parse_math=False)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=_DPI)


def colour_map(picture: Reduced) -> NDArray[np.uint8]:
    """(rows, columns, 3): grey by probability, darker where it is higher; each cell mixed with right, missed and false
    by their share of its pixels; nearly white where nothing counts."""
    pixels = np.maximum(picture.pixels, 1)
    grey = (0.85 - 0.45 * picture.probability / pixels) * (pixels - picture.right - picture.missed - picture.false)
    out = np.empty((*pixels.shape, 3), np.uint8)
    for channel in range(3):
        mixed = sum((to_rgb(colour)[channel] * getattr(picture, name) for name, colour in COLOURS.items()), grey)
        out[..., channel] = np.rint(255 * mixed / pixels)
    out[picture.pixels == 0] = _NOT_COUNTED
    return out


def _map(axes: Axes, evaluation: Evaluation) -> None:
    picture, counts = evaluation.picture, evaluation.counts
    y0, y1, x0, x1 = picture.rect
    axes.imshow(colour_map(picture), extent=(x0, x1, y1, y0), interpolation="nearest")
    told = {"right": counts.tp, "missed": counts.fn, "false": counts.fp}
    handles = [Patch(facecolor=COLOURS[name], label=f"{name} ({pixels:,} px)") for name, pixels in told.items()]
    handles.append(Patch(facecolor="0.6", label="probability, as grey"))
    axes.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, frameon=False, fontsize=9
    )  # fmt: skip
    axes.tick_params(labelsize=8)
    axes.set_xlabel("column, px", fontsize=8)
    axes.set_ylabel("row, px", fontsize=8)


def _precision(axes: Axes, evaluation: Evaluation, lines: Curves) -> None:
    histogram, at = evaluation.histogram, evaluation.counts.confusion
    axes.plot(lines.recall, lines.precision, color=COLOURS["right"])
    axes.plot(at.recall(), at.precision(), "o", color=_LINE)
    axes.axhline(histogram.prevalence(), color="0.5", linestyle=":", linewidth=1)
    _unit(axes, "recall", "precision", f"AP {_told(histogram.ap())}; dotted: guessing")


def _roc(axes: Axes, evaluation: Evaluation, lines: Curves) -> None:
    at = evaluation.counts.confusion
    axes.plot(lines.false_positive_rate, lines.recall, color=COLOURS["right"])
    blank = at.fp + at.tn
    axes.plot(at.fp / blank if blank else np.nan, at.recall(), "o", color=_LINE)
    axes.plot([0, 1], [0, 1], color="0.5", linestyle=":", linewidth=1)
    _unit(axes, "false positive rate", "true positive rate", f"AUC {_told(evaluation.histogram.auc())}")


def draw_dice(axes: Axes, evaluation: Evaluation, lines: Curves) -> None:
    """Dice at every threshold, in steps from one value of the map to the next, and the threshold that is scored."""
    threshold, values = (np.concatenate([line[:1], line]) for line in (lines.threshold, lines.dice))
    threshold[0] = 0  # below the lowest value of the map all is ink
    axes.plot(threshold, values, color=COLOURS["right"], drawstyle="steps-pre")
    axes.axvline(evaluation.threshold, color=_LINE, linestyle=":", linewidth=1)
    dice = evaluation.counts.confusion.fbeta(1)
    axes.plot(evaluation.threshold, dice, "o", color=_LINE)
    _unit(axes, "threshold", "Dice", f"Dice {_told(dice)} at {evaluation.threshold:.10g}")


def _reliability(axes: Axes, evaluation: Evaluation) -> None:
    found = evaluation.histogram.reliability()
    axes.bar(found.probability, found.pixels / found.pixels.max(), width=0.03, color="0.85")
    axes.plot([0, 1], [0, 1], color="0.5", linestyle=":", linewidth=1)
    axes.plot(found.probability, found.ink, "o-", color=COLOURS["right"], markersize=3)
    error = evaluation.histogram.calibration_error()
    _unit(axes, "predicted probability", "ink's share", f"calibration error {_told(error)}; grey: pixels")


def _unit(axes: Axes, x: str, y: str, title: str) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), box_aspect=1)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _told(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"

"""The pictures of a bench: quality against memory, and for each fragment a layer, the label and every model's map."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_recipes.files import whole_file
from zoo.bench.leaderboard import Row
from zoo.bench.names import slug
from zoo.bench.page.pictures import Region, decoded
from zoo.bench.shown import marked, pareto

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUALITY_MEMORY, PANEL = "quality_memory.png", "panel"
_BESIDE = 1.06  # where names begin, in parts of the axes' width


def quality_against_memory(rows: Sequence[Row], path: Path, title: str) -> bool:
    """Dice with its interval against peak training memory; floors that use none are lines. False if nothing to draw.

    A row that fails a control is hollow and marked ✗.
    """
    scored = [row for row in rows if row.dice is not None and not row.control]
    trained = [row for row in scored if row.train_mb]
    if not trained:
        return False
    from matplotlib.ticker import LogFormatter

    figure = _figure(7.5, 5.0)
    axes = figure.add_subplot()
    lines: dict[float, list[Row]] = {}  # floors whose lines would fall together share one
    for row in scored:
        if row.floor and not row.train_mb and row.dice is not None:
            lines.setdefault(round(row.dice, 2), []).append(row)
    for together in lines.values():
        height = float(np.mean([row.dice or 0 for row in together]))
        axes.axhline(height, color="0.65", linestyle="--", linewidth=1)
        where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "xytext": (-4, 3), "ha": "right"}
        axes.annotate(
            _literal(", ".join(row.label for row in together)), (1.0, height), fontsize=8, color="0.45", **where
        )
    front = {row.label for row in pareto(scored, lambda row: row.train_mb)}
    for row in trained:
        assert row.dice is not None
        low, high = row.dice_low, row.dice_high  # without an interval where it lacks runs
        bars = None if low is None or high is None else [[max(row.dice - low, 0)], [max(high - row.dice, 0)]]
        colour = "0.55" if row.floor else "tab:orange" if row.label in front else "tab:blue"
        inside = "white" if row.failures else colour
        axes.errorbar(
            *([row.train_mb or 1], [row.dice]), yerr=bars, fmt="o", color=colour, mfc=inside, capsize=3, markersize=7
        )
    axes.set_xscale("log")
    for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        ticks(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 1)))
    axes.set_xlabel(f"peak training memory, MB ({trained[0].memory_kind})")
    axes.set_ylabel("Dice, with 95 % interval")
    axes.margins(x=0.1, y=0.12)
    axes.grid(alpha=0.25)
    _name_beside(axes, [(marked(row, row.label), row.train_mb or 1, row.dice or 0) for row in trained])
    marks = [
        *(["hollow, ✗: fails a control"] if any(row.failures for row in trained) else []),
        *(["?: a control was not checked"] if any(row.verdict == "not checked" for row in trained) else []),
    ]
    legend = ["orange: nothing that needs less memory is better; grey: floors", *(["; ".join(marks)] if marks else [])]
    axes.set_title("\n".join([_literal(title), *legend]), fontsize=10, loc="left")
    _save(figure, path)
    return True


def _name_beside(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """The names of (name, x, y) in a column on the right, each with a line to its point.

    Names at the points themselves would lie over each other as soon as a board has more than a few rows. Places in the
    column are as near to the points' heights as there is room, and shared out so that all lines together are shortest:
    then no two of them cross.
    """
    from scipy.optimize import linear_sum_assignment

    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
    drawn = axes.transData.transform([point[1:] for point in points])
    at = axes.transAxes.inverted().transform(drawn)  # in parts of the axes' width and height
    room = min(0.05, 1 / max(1, len(points) - 1))  # of the height, for a name
    heights: list[float] = []
    for height in sorted(at[:, 1]):
        heights.append(max(height, heights[-1] + room if heights else 0.0))
    limit = 1.0
    for number in reversed(range(len(heights))):  # what was pushed out at the top goes down again
        heights[number] = min(heights[number], limit)
        limit = heights[number] - room
    across = (_BESIDE - at[:, :1]) * axes.bbox.width / axes.bbox.height
    chosen = linear_sum_assignment(np.hypot(across, np.array(heights) - at[:, 1:]))
    for point, place in zip(*chosen, strict=True):
        name, x, y = points[point]
        axes.annotate(
            _literal(name),
            (x, y),
            xytext=(_BESIDE, heights[place]),
            textcoords="axes fraction",
            fontsize=8,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "0.8", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4},
        )


def panels(shown: Sequence[Region], out: Path) -> list[Path]:
    """One picture a test region: the page's pictures of it side by side, maps in colour."""
    written = []
    for region in shown:
        path = out / f"{slug(f'{PANEL}_{region.key}'.replace('/', '_'))}.png"
        _panel(region, path)
        written.append(path)
    return written


def _panel(region: Region, path: Path) -> None:
    columns = min(8 if region.width < 0.6 * region.height else 4, len(region.pictures))
    rows = -(-len(region.pictures) // columns)
    side = 3.4
    figure = _figure(columns * side * min(max(region.width / region.height, 0.5), 1.6), rows * (side + 0.5))
    for number, picture in enumerate(region.pictures):
        axes: Axes = figure.add_subplot(rows, columns, number + 1)
        colours = "magma" if picture.key.startswith("map ") else "gray"
        axes.imshow(decoded(picture.uri), cmap=colours, vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(_literal("\n".join(filter(None, (picture.title, picture.note)))), fontsize=9)
        axes.set_facecolor("0.5")
        axes.set(xticks=[], yticks=[])
    figure.suptitle(_literal(f"{region.name}, {region.outline}"), fontsize=10)
    _save(figure, path)


def _literal(text: str) -> str:
    """Matplotlib reads $…$ as formulas; a file name may hold them."""
    return text.replace("$", r"\$")


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    with whole_file(path) as partial, Image.open(drawn) as picture:  # 256 colours: a third of the size
        picture.convert("RGB").quantize(256).save(partial, format="png", optimize=True)

"""The pictures of a bench: quality against memory, and for each fragment a layer, the label and every model's map."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_recipes.files import whole_file
from data_recipes.fragment import Fragment
from data_recipes.regions import Rect
from zoo.bench.leaderboard import Row
from zoo.bench.names import slug
from zoo.bench.result import Result
from zoo.bench.score import bounding, map_name
from zoo.bench.shown import marked, pareto

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUALITY_MEMORY, PANEL = "quality_memory.png", "panel"
_PANEL_PX = 700  # a map is reduced to about this side: a page, not an archive


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
    """The names of (name, x, y) in a column on the right, in the order of y, each with a line to its point.

    Names at the points themselves would lie over each other as soon as a board has more than a few rows.
    """
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    ordered = sorted(points, key=lambda point: point[2])
    room = min(0.05, 1 / max(1, len(ordered) - 1))  # of the height, for a name
    heights: list[float] = []
    for _, _, y in ordered:
        heights.append(max((y - low) / (high - low), heights[-1] + room if heights else 0.0))
    limit = 1.0
    for number in reversed(range(len(heights))):  # what was pushed out at the top goes down again
        heights[number] = min(heights[number], limit)
        limit = heights[number] - room
    for (name, x, y), height in zip(ordered, heights, strict=True):
        axes.annotate(
            _literal(name),
            (x, y),
            xytext=(1.06, height),
            textcoords="axes fraction",
            fontsize=8,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "0.8", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4},
        )


def panels(results: Sequence[Result], fragments: Mapping[str, Fragment], out: Path, rows: Sequence[Row]) -> list[Path]:
    """One picture a test region of a fragment: centre layer, label, each configuration's map of its first seed.

    The title of a map says ✗ where its row fails a control.
    """
    names = {row.label: marked(row, row.label) for row in rows}
    chosen: dict[tuple[str, str], dict[str, Result]] = {}
    for result in results:
        if result.status == "ok":
            for name in result.spec.test_rects:
                chosen.setdefault((result.spec.fold, name), {}).setdefault(result.spec.label, result)
    written = []
    for (fold, name), by_label in chosen.items():
        path = out / f"{slug(f'{PANEL}_{fold}_{name}')}.png"
        _panel(fragments[name], name, {names[label]: run for label, run in by_label.items()}, out, path)
        written.append(path)
    return written


def _panel(fragment: Fragment, name: str, titled: Mapping[str, Result], out: Path, path: Path) -> None:
    spec = next(iter(titled.values())).spec
    outline = bounding([Rect(*rect) for rect in spec.test_rects[name]])
    step = max(1, round(max(outline.height, outline.width) / _PANEL_PX))
    tiles: list[tuple[str, NDArray[Any], dict[str, Any]]] = []
    if fragment.volume is not None:
        z = min(max(fragment.center_layer, 0), fragment.depth - 1)
        layer = fragment.read(*outline, z, z + 1)[0][::step, ::step]
        low, high = np.percentile(layer, [1, 99])
        tiles.append((f"layer {z}", layer, {"cmap": "gray", "vmin": low, "vmax": max(high, low + 1)}))
    papyrus = fragment.papyrus[outline.slices][::step, ::step]
    if fragment.label is not None:
        ink = (fragment.label[outline.slices] > 0)[::step, ::step].astype(float)
        counted = (fragment.papyrus[outline.slices] & fragment.supervised[outline.slices])[::step, ::step]
        tiles.append(("label (grey: not counted)", np.where(counted, ink, 0.5), {"cmap": "gray", "vmin": 0, "vmax": 1}))
    for head, result in titled.items():
        saved = out / "runs" / result.run_id / map_name(name)
        if saved.is_file():
            prob = np.load(saved, mmap_mode="r", allow_pickle=False)[::step, ::step].astype(np.float32)
            prob[~papyrus] = np.nan  # what a model says beside the papyrus is neither trained nor counted
            scores = result.per_fragment.get(name, result.quality)
            title = f"{head}\nDice {scores['dice'] or 0:.3f}" + (f"  AUC {scores['auc']:.3f}" if scores["auc"] else "")
            # Maps differ in calibration; each is shown from its own 2nd to 99.5th percentile so that shapes compare.
            low, high = np.nanpercentile(prob, [2, 99.5])
            low, high = (low, high) if high - low > 1e-3 else (0.0, 1.0)
            tiles.append((title, prob, {"cmap": "magma", "vmin": low, "vmax": high}))
    columns = min(8 if outline.width < 0.6 * outline.height else 4, len(tiles))
    rows = -(-len(tiles) // columns)
    side = 3.4
    figure = _figure(columns * side * min(max(outline.width / outline.height, 0.5), 1.6), rows * (side + 0.5))
    for number, (title, image, style) in enumerate(tiles):
        axes: Axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(image, interpolation="nearest", **style)
        axes.set_title(_literal(title), fontsize=9)
        axes.set_facecolor("0.5")
        axes.set(xticks=[], yticks=[])
    figure.suptitle(
        _literal(f"{name}, rows {outline.y0}–{outline.y1 - 1}, columns {outline.x0}–{outline.x1 - 1}"), fontsize=10
    )
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

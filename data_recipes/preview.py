"""`python -m data_recipes preview`: the tiles of a recipe drawn over the label, and how their ink ratios spread."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from data_recipes.build import adapted, tiles_of
from data_recipes.files import check_file, whole_file
from data_recipes.table import KINDS, SampleTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from data_recipes.sampling import Planes

COLOURS = {"edge": "#c8102e", "void": "#0072b2", "grid": "#3a7d44", "random": "#b35900"}
PAPYRUS, INK, OUTSIDE, TEXT = (232, 222, 200), (62, 50, 40), (255, 255, 255), "#2b2622"
MAP = 6.0  # inches, height of a map
COLUMNS = 4  # fragments beside each other


def preview(
    recipe: str,
    data: list[str],
    out: Path,
    *,
    seed: int = 0,
    tile: int | None = None,
    samples: int | None = None,
    table: Path | None = None,
    dpi: int = 200,
) -> Path:
    """Draw the tiles of a recipe over the fragments at `data` into the PNG `out`: a map and a histogram a fragment.

    `table` draws the tiles of that CSV instead of sampling anew; the recipe then gives their side and the buckets.
    Raises ValueError before anything is read where `out` cannot be written.
    """
    from data_recipes.fragment import open_fragments

    chosen = adapted(recipe, tile, samples)
    out = Path(out).expanduser()
    check_file(out)
    fragments = open_fragments(data)
    tiles = tiles_of(chosen, data, seed)[0] if table is None else SampleTable.from_csv(table.expanduser())
    figure = draw(fragments, tiles, tile=chosen.tile, buckets=chosen.buckets, title=chosen.name)
    with whole_file(out) as partial:
        figure.savefig(partial, dpi=dpi, format="png")
    return out


def draw(fragments: Mapping[str, Planes], table: SampleTable, *, tile: int, buckets: int, title: str) -> Figure:
    """One column a fragment: its label with every tile outlined in its kind's colour, and the bucket histogram.

    Raises ValueError where the table names a fragment that is not given.
    """
    from matplotlib.figure import Figure

    unknown = sorted(set(table.names.tolist()) - set(fragments))
    if unknown:
        raise ValueError(f"the table has tiles of {unknown[0]!r}, the data given are {', '.join(fragments)}")
    names = list(fragments)
    columns = min(len(names), COLUMNS)
    rows = -(-len(names) // columns)
    # maps of one height beside each other, each as wide as its fragment asks for within reason
    widths = [3.0] * columns
    for number, name in enumerate(names):
        height, width = fragments[name].shape
        widths[number % columns] = max(widths[number % columns], min(MAP * width / height, 2 * MAP))
    figure = Figure(figsize=(sum(widths) + 0.8, rows * (MAP + 2.4) + 0.7), layout="constrained")
    figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.06)
    grid = figure.add_gridspec(2 * rows, columns, width_ratios=widths, height_ratios=[MAP, 1.7] * rows)
    top = 1.08 * max(_histogram(table[table.names == name], buckets).sum(0).max() for name in names)
    for number, name in enumerate(names):
        own = table[table.names == name]
        row, column = divmod(number, columns)
        _map(figure.add_subplot(grid[2 * row, column]), name, fragments[name], own, tile)
        _bars(figure.add_subplot(grid[2 * row + 1, column]), own, buckets, max(top, 1.0), first=column == 0)
    handles = _legend(table)
    heading = f"{title}: {len(table):,} tiles of {tile} px"
    figure.suptitle(heading, color=TEXT, fontsize=13, parse_math=False)
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=11)
    return figure


def _map(axes: Axes, name: str, fragment: Planes, own: SampleTable, tile: int) -> None:
    from matplotlib.collections import PolyCollection

    height, width = fragment.shape
    axes.imshow(_reduced(fragment), extent=(0, width, height, 0), interpolation="antialiased")
    square = np.array([[0, 0], [0, tile], [tile, tile], [tile, 0]])
    # few tiles are drawn boldly, thousands finely, so that the letters stay readable under them
    weight = float(np.clip(20 / np.sqrt(max(len(own), 1)), 0.2, 1.2))
    opacity = float(np.clip(weight / 8, 0.02, 0.12))
    for kind in reversed(KINDS):
        rows = own[own.kind == KINDS.index(kind)]
        corners = np.stack([rows.x, rows.y], 1)[:, None] + square
        axes.add_collection(
            PolyCollection(
                list(corners),
                facecolors=(*_rgb(COLOURS[kind]), opacity),
                edgecolors=(*_rgb(COLOURS[kind]), 0.8),
                linewidths=weight,
            )
        )
    axes.set_title(f"{name}  {height}×{width} px", color=TEXT, fontsize=11, parse_math=False)
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], anchor="C")
    axes.spines[:].set_color("#cccccc")


def _reduced(fragment: Planes, longest: int = 2400) -> np.ndarray:
    """(h,w,3) uint8 picture of papyrus and ink at most `longest` px long, read in bands."""
    height, width = fragment.shape
    step = max(1, -(-max(height, width) // longest))
    rows = []
    for y in range(0, height, step * 256):
        at = slice(y, min(y + step * 256, height)), slice(0, width)
        papyrus = np.asarray(fragment.papyrus[at])
        ink = np.zeros(papyrus.shape, bool) if fragment.label is None else np.asarray(fragment.label[at]) > 0
        colour = np.full((*papyrus.shape, 3), OUTSIDE, np.uint8)
        colour[papyrus] = PAPYRUS
        colour[ink] = INK
        size = -(-width // step), -(-papyrus.shape[0] // step)
        rows.append(cv2.resize(colour, size, interpolation=cv2.INTER_AREA))
    return np.concatenate(rows)


def _histogram(own: SampleTable, buckets: int) -> np.ndarray:
    """(kinds, 1 + buckets) tiles without ink, then by ink ratio."""
    ratio = np.nan_to_num(own.ink_ratio)
    place = np.minimum(np.floor(buckets * ratio), buckets - 1).astype(int)
    place = np.where(own.bucket >= 0, own.bucket, place) + 1
    place[ratio == 0] = 0
    counts = np.zeros((len(KINDS), buckets + 1), int)
    np.add.at(counts, (own.kind, np.clip(place, 0, buckets)), 1)
    return counts


def _bars(axes: Axes, own: SampleTable, buckets: int, top: float, *, first: bool) -> None:
    counts = _histogram(own, buckets)
    x = np.r_[-0.8, np.arange(buckets) + 0.5]
    below = np.zeros(buckets + 1)
    for kind, heights in zip(KINDS, counts, strict=True):
        if heights.any():
            axes.bar(x, heights, width=0.9, bottom=below, color=COLOURS[kind], alpha=0.85)
            below += heights
    for place, total in zip(x, below, strict=True):
        if total and buckets <= 12:
            axes.annotate(f"{int(total):,}", (place, total), ha="center", va="bottom", fontsize=7, color=TEXT)
    shown = np.arange(0, buckets + 1, max(1, buckets // 5))
    axes.set(xlim=(-1.4, buckets + 0.1), ylim=(0, 1.1 * top))
    axes.set_xticks([-0.8, *map(float, shown)], ["none", *(f"{tick / buckets:.1f}" for tick in shown)], fontsize=8)
    axes.tick_params(axis="y", labelsize=8, labelleft=first)
    axes.set_xlabel("ink ratio", fontsize=9, color=TEXT)
    if first:
        axes.set_ylabel("tiles", fontsize=9, color=TEXT)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(table: SampleTable) -> list:
    from matplotlib.patches import Patch

    counts = np.bincount(table.kind, minlength=len(KINDS))
    return [Patch(facecolor=COLOURS[kind], label=f"{kind} ({n:,})") for kind, n in zip(KINDS, counts, strict=True) if n]


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)

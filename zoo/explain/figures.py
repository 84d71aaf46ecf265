"""The pictures of `zoo.explain`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from data_recipes.files import whole_file
from zoo.explain.depth import Importance
from zoo.explain.experts import Gates

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LEAST_SPREAD = 0.05  # of the colours about equal gates: an untrained model must not look like a trained one
_GRADIENT, _OCCLUSION = "#0072b2", "#d55e00"  # told apart by colour-blind readers too
_SPREAD = "; lines: 10th to 90th percentile of them"


class DepthFigure(NamedTuple):
    """What the picture of `depth` shows.

    `rows`: a dictionary a layer, as in depth.csv. `centre`: the fragment's layer on the surface, if known. The rest is
    of one tile: its corner, the layer (H, W) that counts most there, that layer's number in the file, and what the tile
    says.
    """

    title: str
    filled: str
    rows: Sequence[Mapping[str, Any]]
    centre: int | None
    corner: tuple[int, int]
    picture: NDArray[Any]
    strongest: int
    tile: Importance


def draw_gates(gates: Gates, path: Path) -> None:
    """A map a task, layers down and experts across; orange is more than an equal share, purple less."""
    layers, tasks, experts = gates.values.shape
    equal = 1 / experts
    far = max(float(np.abs(gates.values - equal).max()), _LEAST_SPREAD)
    colours = TwoSlopeNorm(equal, vmin=max(equal - far, 0), vmax=equal + far)
    figure = Figure(figsize=(1.6 + tasks * (0.55 * experts + 0.5) + 1.2, 1.6 + 0.3 * layers), layout="constrained")
    panels: list[Axes] = list(figure.subplots(1, tasks, sharey=True, squeeze=False)[0])
    image = None
    for task, panel in enumerate(panels):
        values = gates.values[:, task]
        image = panel.imshow(values, cmap="PuOr_r", norm=colours, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            strong = abs(float(colours(value)) - 0.5) > 0.35
            panel.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color="w" if strong else "k")
        panel.set_xticks(range(experts), gates.experts, rotation=45, ha="right", fontsize=8)
        panel.set_yticks(range(layers), gates.layers, fontsize=8)
        panel.set_title(f"task {task}" if tasks > 1 else "", fontsize=9)
        panel.tick_params(length=0)
    assert image is not None
    bar = figure.colorbar(image, ax=panels, shrink=0.6, fraction=0.06)
    bar.set_label(f"mean gate; {equal:.2f} is an equal share", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(_literal(f"{gates.model}: experts by layer"), fontsize=10)
    _save(figure, path)


def draw_depth(of: DepthFigure, path: Path) -> None:
    """Both curves over the layers, and below them one tile: its strongest layer, its ink, what that layer changes."""
    many = any(row["occlusion_p10"] != row["occlusion_p90"] for row in of.rows)
    figure = Figure(figsize=(9.5, 6.8), layout="constrained")
    grid = figure.add_gridspec(3, 3, height_ratios=[1, 1, 1.6])
    upper = figure.add_subplot(grid[0, :])
    lower = figure.add_subplot(grid[1, :], sharex=upper)
    _curve(upper, of, "gradient", _GRADIENT, "gradient,\nshare of a layer")
    _curve(lower, of, "occlusion", _OCCLUSION, "occlusion,\nchange of probability")
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("layer in the file" + ("; dotted: the layer on the surface" if of.centre is not None else ""))
    upper.set_title(_literal(f"{of.title}{_SPREAD if many else ''}"), fontsize=10, loc="left")

    y, x = of.corner
    _image(figure.add_subplot(grid[2, 0]), of.picture, f"layer {of.strongest} of the tile at {y},{x}", cmap="gray")
    ink = figure.add_subplot(grid[2, 1])
    figure.colorbar(
        _image(ink, of.tile.probability, "ink probability", cmap="magma", vmin=0, vmax=1), ax=ink, shrink=0.8
    )
    change = figure.add_subplot(grid[2, 2])
    far = max(float(np.abs(of.tile.change).max()), 1e-6)
    drawn = _image(change, of.tile.change, f"change without layer {of.strongest}", cmap="PuOr_r", vmin=-far, vmax=far)
    figure.colorbar(drawn, ax=change, shrink=0.8)
    figure.text(0.01, 0.0, f"An occluded layer becomes {of.filled}.", fontsize=8, color="0.35", va="top")
    _save(figure, path)


def _curve(axes: Axes, of: DepthFigure, name: str, colour: str, label: str) -> None:
    layers = np.array([row["stored"] for row in of.rows])
    low, middle, high = (np.array([row[key] for row in of.rows]) for key in (f"{name}_p10", name, f"{name}_p90"))
    axes.bar(layers, middle, width=0.7, color=colour, alpha=0.85)
    axes.vlines(layers, low, high, color="0.2", linewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(label, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    if of.centre is not None:
        axes.axvline(of.centre, color="0.4", linestyle=":", linewidth=1, zorder=0)


def _image(axes: Axes, values: NDArray[Any], title: str, **style: Any):
    axes.set_title(title, fontsize=9)
    axes.set(xticks=[], yticks=[])
    return axes.imshow(values, interpolation="nearest", **style)


def _literal(text: str) -> str:
    """Matplotlib reads $…$ as formulas; a file name may hold them."""
    return text.replace("$", r"\$")


def _save(figure: Figure, path: Path) -> None:
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=130, bbox_inches="tight")

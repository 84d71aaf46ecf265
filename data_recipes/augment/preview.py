"""`python -m data_recipes augment`: a tile as it is read, as a whole set changes it, and under each transform alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from data_recipes.files import check_file, whole_file
from data_recipes.fragment import open_fragments
from data_recipes.preview import INK, PAPYRUS, TEXT
from data_recipes.recipe import load_recipe
from data_recipes.regions import whole
from data_recipes.sampling import build_table
from data_recipes.tiles import TileDataset, fit_contract

from .apply import augment
from .settings import AugmentSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Batch = dict[str, Any]
BATCH = 4  # tiles, so that there are others to mix with
BLOCKS = 3  # groups of panels beside each other
PANEL = 1.35  # inches
_PANELS = ("middle layer", "section along Z", "label")
# how a heading tells a transform's value, and its range where that is another field
_TOLD = {
    "flips": "",
    "quarter_turns": "",
    "rotation": "±{:g}°",
    "magnification": "{0[0]:g} to {0[1]:g}",
    "elastic": "±{:g} px",
    "depth_shift": "±{:g} layers",
    "layer_drop": "{:.0%} of layers",
    "gain": "±{:g}",
    "offset": "±{:g}",
}
_RANGES = {
    "gamma": "gamma_range",
    "blur": "blur_sigma",
    "noise": "noise_std",
    "cutout": "cutout_side",
    "cutmix": "cutmix_side",
}
_TRIES = 24


def preview(
    settings: AugmentSettings,
    data: list[str],
    out: Path,
    *,
    title: str,
    tile: int = 96,
    depth: int | None = None,
    draws: int = 6,
    seed: int = 0,
    dpi: int = 110,
) -> Path:
    """Draw what `settings` do to a tile of the fragments at `data` into the PNG `out`.

    depth: layers about the centre one; all of them by default. Raises ValueError before anything is read where `out`
    cannot be written, and where the data hold no layers or no ink.
    """
    if tile < 8 or draws < 0:
        raise ValueError(f"got a tile of {tile} px and {draws} draws; give at least 8 px and no less than 0 draws")
    out = Path(out).expanduser()
    check_file(out)
    figure = draw(
        tiles_with_ink(data, tile=tile, depth=depth, seed=seed), settings, title=title, draws=draws, seed=seed
    )
    with whole_file(out) as partial:
        figure.savefig(partial, dpi=dpi, format="png")
    return out


def tiles_with_ink(data: list[str], *, tile: int, depth: int | None, seed: int) -> Batch:
    """A batch of `BATCH` tiles at the edges of ink, normalised as for training; the most balanced one first."""
    fragments = open_fragments(data)
    if depth is None:
        depth = min(fragment.depth for fragment in fragments.values()) or 1
    region = {name: (whole(fragment.shape),) for name, fragment in fragments.items()}
    contract = fit_contract(fragments, region, depth=depth, tile=tile, seed=seed)
    recipe = load_recipe("edges_buckets_void").with_(tile=tile, samples=24 * len(fragments))
    table, _ = build_table(fragments, None, recipe, seed=seed)
    if not len(table):
        raise ValueError(f"not one tile of {tile} px fits the papyrus of {', '.join(data)}; give a smaller --tile")
    order = np.argsort(np.abs(np.nan_to_num(table.ink_ratio) - 0.35), kind="stable")
    dataset = TileDataset(fragments, table[order[np.arange(BATCH) % len(order)]], contract)
    items = [dataset[index] for index in range(BATCH)]
    return {key: torch.stack([item[key] for item in items]) for key in ("volume", "label", "mask")}


def draw(batch: Batch, settings: AugmentSettings, *, title: str, draws: int, seed: int) -> Figure:
    """The batch's first tile: as it is, under `draws` draws of all of `settings`, and under each transform alone."""
    from matplotlib.figure import Figure

    shown = [("as it is read", batch)]
    shown += [(f"draw {n + 1}", augmented(batch, settings, seed + n)) for n in range(draws)]
    shown += [(told(settings, name), strongest(batch, settings.only(name), seed)) for name in settings.active()]
    first = batch["volume"][0]
    low, high = (float(first.quantile(share)) for share in (0.005, 0.995))
    rows = -(-len(shown) // BLOCKS)
    wide = len(_PANELS) * PANEL + 0.25
    figure = Figure(figsize=(BLOCKS * wide + 0.2, rows * (PANEL + 0.28) + 0.9))
    ratios = [*[PANEL] * len(_PANELS), 0.25] * BLOCKS
    grid = figure.add_gridspec(
        rows, len(ratios), width_ratios=ratios, left=0.015, right=1.0, bottom=0.01, wspace=0.05, hspace=0.24,
        top=1 - 0.85 / figure.get_figheight(),
    )  # fmt: skip
    for number, (heading, state) in enumerate(shown):
        block, row = divmod(number, rows)
        panels = [figure.add_subplot(grid[row, block * (len(_PANELS) + 1) + k]) for k in range(len(_PANELS))]
        _panels(panels, state, low, high)
        panels[0].set_title(heading, loc="left", fontsize=8, color=TEXT, pad=3, parse_math=False)
    figure.suptitle(title, x=0.015, y=1 - 0.12 / figure.get_figheight(), ha="left", va="top", fontsize=12, color=TEXT)
    legend = (
        f"each: {', '.join(_PANELS)} (ink dark, red: does not count). First {draws} draws of the whole set, then each "
        f"transform alone, the strongest of {_TRIES} draws."
    )
    figure.text(0.015, 1 - 0.45 / figure.get_figheight(), legend, fontsize=8, color=TEXT, va="top")
    return figure


def augmented(batch: Batch, settings: AugmentSettings, seed: int) -> Batch:
    """One draw."""
    generator = torch.Generator().manual_seed(seed)
    return augment(batch, generator, settings, classes=1, rows=slice(None), of=None)


def strongest(batch: Batch, settings: AugmentSettings, seed: int) -> Batch:
    """Of some draws the one that changes the first tile the most, since many draws are close to no change."""
    draws = [augmented(batch, settings, seed + number) for number in range(_TRIES)]
    return max(draws, key=lambda after: float((after["volume"][0] - batch["volume"][0]).abs().sum()))


def told(settings: AugmentSettings, name: str) -> str:
    """A transform and how it is set, in a line."""
    text = f"{name} {_TOLD.get(name, 'in {:.0%} of tiles').format(getattr(settings, name))}".strip()
    if name in _RANGES:
        low, high = getattr(settings, _RANGES[name])
        text += f", {_RANGES[name].removeprefix(name + '_')} {low:g} to {high:g}"
    return text


def _panels(axes: list[Axes], state: Batch, low: float, high: float) -> None:
    volume, label, mask = (state[key][0, 0] for key in ("volume", "label", "mask"))
    depth, height = volume.shape[:2]
    axes[0].imshow(volume[depth // 2].numpy(), cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axes[0].axhline(height // 2, color="#0072b2", linewidth=0.6)
    axes[1].imshow(
        volume[:, height // 2].numpy(), cmap="gray", vmin=low, vmax=high, aspect="auto", interpolation="nearest"
    )
    axes[2].imshow(_coloured(label, mask), interpolation="nearest")
    for panel in axes:
        panel.set(xticks=[], yticks=[], box_aspect=1)
        panel.spines[:].set_color("#cccccc")


def _coloured(label: Tensor, mask: Tensor) -> np.ndarray:
    """(H,W,3) from 0 to 1."""
    ink = label.clamp(0, 1).float().numpy()[..., None]
    colour = (1 - ink) * np.array(PAPYRUS) / 255 + ink * np.array(INK) / 255
    return np.where(mask.numpy()[..., None], colour, np.array([0.78, 0.35, 0.3]))

"""The coarser levels of a finished map, and what an OME-Zarr says of itself. In bounded memory, a shard at a time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.predict.plan import Plan
from zoo.predict.store import create_level

COARSEST = 512
"""px; levels are added until the longer side is at most this."""


def add_levels(group: Any, plan: Plan, on_progress: Callable[[], None] = lambda: None) -> int:
    """Write levels 1, 2, … of the zarr group of a map, each half the one before, and return how many levels there are.

    A pixel is the mean of four, rounded to the nearest stored value; of fewer at an odd border. What an interrupted
    call left is written again.
    """
    level = 0
    while max(group[str(level)].shape) > COARSEST:
        fine = group[str(level)]
        height, width = (-(-side // 2) for side in fine.shape)
        level += 1
        if str(level) in group:
            del group[str(level)]
        coarse = create_level(group, str(level), plan, (height, width))
        for y, x in product(range(0, height, plan.shard), range(0, width, plan.shard)):
            block = fine[2 * y : 2 * (y + plan.shard), 2 * x : 2 * (x + plan.shard)]
            if block.any():
                coarse[y : y + plan.shard, x : x + plan.shard] = halved(block)
            on_progress()
    return level + 1


def halved(block: NDArray[Any]) -> NDArray[Any]:
    """(H, W) -> (⌈H/2⌉, ⌈W/2⌉) of the same dtype: means of 2×2, of what there is at an odd border."""
    height, width = block.shape
    padded = np.pad(block, ((0, height % 2), (0, width % 2)), mode="edge")
    means = padded.reshape(-(-height // 2), 2, -(-width // 2), 2).astype(np.float32).mean((1, 3))
    return (np.floor(means + 0.5) if block.dtype.kind == "u" else means).astype(block.dtype)


def ome_attributes(plan: Plan, levels: int) -> dict[str, Any]:
    """OME-Zarr 0.5 attributes for zarr v3, 0.4 for v2: axes y and x, in µm where the voxel size is known.

    A coarse pixel lies in the middle of those it is the mean of, hence the translations.
    """
    um = plan.voxel_um
    axis = {"type": "space", **({"unit": "micrometer"} if um else {})}
    datasets = []
    for level in range(levels):
        scale, shift = (um or 1.0) * 2**level, (um or 1.0) * (2**level - 1) / 2
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": [scale, scale]}]
        if level:
            transforms.append({"type": "translation", "translation": [shift, shift]})
        datasets.append({"path": str(level), "coordinateTransformations": transforms})
    multiscale = {
        "name": plan.fragment,
        "axes": [{"name": name, **axis} for name in "yx"],
        "datasets": datasets,
        "type": "mean",
    }
    if plan.zarr_format == 2:
        return {"multiscales": [{"version": "0.4", **multiscale}]}
    return {"ome": {"version": "0.5", "multiscales": [multiscale]}}

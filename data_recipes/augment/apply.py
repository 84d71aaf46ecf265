"""All augmentations of a batch, in the order in which they act. `data_recipes.augment.augment` documents it."""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor

from .depth import drop_layers, reorder
from .draws import Draws
from .intensity import change_intensity, degrade_detail
from .mix import cut_mix, cut_out, mix_up
from .moves import orient, warp
from .settings import AugmentSettings


def augment(
    batch: dict[str, Any], generator: Generator, settings: AugmentSettings, *, classes: int, rows: slice, of: int | None
) -> dict[str, Any]:
    """Moves, then Z, then intensities, then what is cut and mixed; the first makes the copies the rest writes to."""
    volume, label, mask = batch["volume"], batch["label"], batch["mask"]
    of = len(volume) if of is None else of
    _check(volume, label, mask, settings, classes=classes, drawn=len(range(of)[rows]))
    draws = Draws(generator, volume.device, rows, of)
    volume, label, mask = orient((volume, label, mask), draws, settings)
    if settings.warps:
        volume, label, mask = warp((volume, label, mask), draws, settings)
    volume = reorder(volume, draws, settings)
    volume = change_intensity(volume, draws, settings)
    volume = drop_layers(volume, draws, settings)
    volume = degrade_detail(volume, draws, settings)
    volume = cut_out(volume, draws, settings)
    task = batch.get("task")
    volume, label, mask = cut_mix((volume, label, mask), draws, settings, task)
    volume, label, mask = mix_up((volume, label, mask), draws, settings, task)
    return {**batch, "volume": volume, "label": label, "mask": mask}


def _check(volume: Tensor, label: Tensor, mask: Tensor, settings: AugmentSettings, *, classes: int, drawn: int) -> None:
    if volume.ndim != 5 or volume.shape[1] != 1 or not volume.is_floating_point():
        raise ValueError(
            f"got a volume of {tuple(volume.shape)} {volume.dtype}, expected (B,1,D,H,W) floats, normalised by the "
            "input contract"
        )
    size, height, width = volume.shape[0], *volume.shape[-2:]
    if label.shape != (size, 1, height, width) or mask.shape != label.shape:
        raise ValueError(
            f"label {tuple(label.shape)} and mask {tuple(mask.shape)} do not belong to a volume of "
            f"{tuple(volume.shape)}: both must be {(size, 1, height, width)}"
        )
    if drawn != size:
        raise ValueError(f"the batch has {size} tiles, but the rows that it is said to hold are {drawn}")
    if settings.quarter_turns and height != width:
        raise ValueError(f"quarter turns need square tiles, got {height}×{width}; set quarter_turns: false")
    if settings.mixup and classes > 1:
        raise ValueError(
            f"mixup blends labels to a share of ink, which {classes} classes have not; set mixup: 0, and cutmix instead"
        )

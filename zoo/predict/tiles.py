"""The ink map of a region in memory, for who scores or looks at it: `predict_region`.

Whole segments are predicted by `zoo.predict.work`, on the same grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from data_recipes.regions import Rect, whole
from data_recipes.tiles import InputContract
from zoo.degrade import Degrade
from zoo.degrade import degrade as degraded
from zoo.device import Precision, autocast, resolve_precision, to_channels_last
from zoo.memory import one_memory_error
from zoo.models.base import InkModel, ink_probability
from zoo.predict.grid import Axis, Blend, Corner, add_tile

if TYPE_CHECKING:
    from data_recipes.fragment import Fragment


def predict_region(
    model: InkModel,
    fragment: Fragment,
    rect: Rect | None,
    contract: InputContract,
    *,
    tile: int | None = None,
    overlap: float = 0.5,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    precision: Precision = "auto",
    blend: Blend = "hann",
    degrade: Degrade | None = None,
    task: int | None = None,
    classes: bool = False,
    out: NDArray[np.float32] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Ink probability of every pixel of `rect` (None: the whole fragment), float32 (height, width).

    With several classes it is one minus the background's probability. Tiles without papyrus are not computed and count
    as probability 0, so far outside the papyrus the map is 0. Pixels around `rect` are read as context.

    Args:
        tile: side of a tile in px; the contract's by default.
        overlap: share of a tile that the next one covers again, 0 to .9.
        batch_size: tiles computed at once; every batch is filled up to it, so that it shapes neither result nor peak.
        precision: "auto" is bf16 where the device computes it natively.
        degrade: as in training (`TrainConfig.degrade`).
        task: for a model that was built for several: which of them it answers as.
        classes: answer with the probability of each class, (C, height, width), blended as ink is; all of them are 0
            far outside the papyrus.
        out: an array or memory map of the answer's shape to write into; memory then does not grow with the region.
        on_progress: called with (tiles done, tiles in all).

    Raises:
        ValueError: a rectangle outside the fragment, a fragment that does not keep the contract, a tile or depth the
            model cannot take, classes of a model that has one.
        zoo.memory.OutOfMemoryError: with what to change.
    """
    rect = _inside(rect, fragment)
    if classes and model.classes == 1:
        raise ValueError(
            f"{model.card.name} was built for one class; its ink probability is the answer without classes"
        )
    contract.check(fragment)
    side, device = tile or contract.tile, torch.device(device)
    rows = Axis.of(fragment.shape[0], side, overlap, blend)
    columns = Axis.of(fragment.shape[1], side, overlap, blend)
    shape = (*([model.classes] if classes else []), rect.height, rect.width)
    if out is None:
        out = np.zeros(shape, np.float32)
    elif out.shape != shape or out.dtype != np.float32:
        raise ValueError(f"out is {out.dtype} {out.shape}, expected float32 {shape}")
    else:
        out[:] = 0.0
    planes = out if classes else out[None]

    corners = [
        Corner(y, x)
        for y in rows.touching(rect.y0, rect.y1)
        for x in columns.touching(rect.x0, rect.x1)
        if fragment.papyrus[y : y + side, x : x + side].any()
    ]
    chosen = resolve_precision(precision, device)
    tasks = None if task is None else torch.full((batch_size,), task, device=device)
    was_training = model.training
    model.to(device).eval()
    to_channels_last(model)
    advice = "use a smaller batch or tile, or bf16"
    try:
        with one_memory_error(f"predicting with {model.card.name}", advice), torch.inference_mode():
            for first in range(0, len(corners), batch_size):
                batch = corners[first : first + batch_size]
                stack = torch.from_numpy(_read(fragment, contract, batch, side, batch_size)).to(device)
                stack = degraded(stack, degrade).contiguous(memory_format=torch.channels_last_3d)
                with autocast(chosen, device):
                    logits = model(stack, tasks).float()
                maps = (logits.softmax(dim=1) if classes else ink_probability(logits)[:, None]).cpu().numpy()
                for corner, values in zip(batch, maps, strict=False):
                    for plane, of_class in zip(planes, values, strict=True):
                        add_tile(plane, rect, corner, of_class, rows, columns)
                if on_progress is not None:
                    on_progress(first + len(batch), len(corners))
    finally:
        model.train(was_training)
    return out


def _inside(rect: Rect | None, fragment: Fragment) -> Rect:
    everything = whole(fragment.shape)
    if rect is None:
        return everything
    rect = Rect(*rect)
    if rect.intersect(everything) != rect:
        height, width = fragment.shape
        raise ValueError(f"{fragment.name}: rectangle {tuple(rect)} is empty or leaves its {height}×{width} px")
    return rect


def _read(
    fragment: Fragment, contract: InputContract, corners: list[Corner], side: int, batch_size: int
) -> NDArray[np.float32]:
    """(batch_size, 1, D, side, side) model input; neighbours in a row are read as one block, the rest stays 0."""
    stack = np.zeros((batch_size, 1, contract.depth, side, side), np.float32)
    at = 0
    for y, row in groupby(corners, key=lambda corner: corner.y):
        for x0, x1, xs in _runs([corner.x for corner in row], side):
            block = contract.normalise(contract.read(fragment, y, x0, side, x1 - x0))
            for x in xs:
                stack[at, 0] = block[:, :, x - x0 : x - x0 + side]
                at += 1
    return stack


def _runs(xs: list[int], side: int) -> Iterator[tuple[int, int, list[int]]]:
    """(first, last-plus-one pixel, origins) of each run of tiles that overlap or touch."""
    run = [xs[0]]
    for x in xs[1:]:
        if x > run[-1] + side:
            yield run[0], run[-1] + side, run
            run = []
        run.append(x)
    yield run[0], run[-1] + side, run

"""How good a model is on tiles that were left out of its training: AP and Dice, from counts over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from threading import Event

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from data_recipes.tiles import TileDataset
from zoo.degrade import degrade
from zoo.metrics import InkHistogram
from zoo.models.base import ink_probability
from zoo.train.batches import fixed_loader, read_on, to_device
from zoo.train.config import TrainConfig


@dataclass(frozen=True)
class Validation:
    """Of one validation: average precision and Dice at its best threshold, and a few tiles to look at.

    `tiles`: (n, 3, H, W) float from 0 to 1, side by side: middle layer, label, prediction.
    """

    ap: float
    dice: float
    tiles: Tensor


@torch.no_grad()
def validate(
    fabric: Fabric, model: nn.Module, dataset: TileDataset, config: TrainConfig, at_once: int, stopped: Event
) -> Validation:
    """Score `model`, which is left in training mode, on every tile once; counts are added up over all processes, each
    of which computes `at_once` tiles at a time. One that was asked to stop finishes all the same."""
    histogram, shown = InkHistogram(), []
    if fabric.world_size > 1:  # BatchNorm's averages are each process's own; the first one's are what is kept
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)
    model.eval()
    for batch in _share(dataset, config, fabric, at_once, stopped):
        volume = degrade(batch["volume"], config.degrade)
        with fabric.autocast():
            logits = model(volume, batch.get("task")).float()
        prob = ink_probability(logits)[:, None]
        histogram.add(*(batch_part.cpu().numpy().ravel()[None] for batch_part in (prob, batch["label"], batch["mask"])))
        if len(shown) < 4:
            middle = volume[:, 0, volume.shape[2] // 2]
            middle = ((middle + 2) / 4).clamp(0, 1)  # two standard deviations either way
            shown.extend(torch.stack([middle, (batch["label"][:, 0] > 0).float(), prob[:, 0]], dim=1).cpu())
    model.train()
    counts = torch.from_numpy(histogram.counts).to(fabric.device)
    counts = fabric.all_reduce(counts, reduce_op="sum")
    total = InkHistogram(np.asarray(counts.cpu()))  # pyright: ignore[reportAttributeAccessIssue]
    return Validation(total.ap(), total.dice(total.best_threshold()), torch.stack(shown[:4]))


def holds_ink(dataset: TileDataset) -> bool:
    """Whether any pixel that counts is ink, which AP needs. Reads labels and masks only, up to the first."""
    table, tile = dataset.table, dataset.contract.tile
    for number, y, x in zip(table.fragment, table.y, table.x, strict=True):
        fragment, window = dataset.fragments[int(number)], np.s_[int(y) : int(y) + tile, int(x) : int(x) + tile]
        assert fragment.label is not None  # a TileDataset has seen to it
        if ((fragment.label[window] > 0) & fragment.papyrus[window] & fragment.supervised[window]).any():
            return True
    return False


def _share(
    dataset: TileDataset, config: TrainConfig, fabric: Fabric, size: int, stopped: Event
) -> Iterator[dict[str, Tensor]]:
    """This process's tiles, each tile counted in exactly one process; every process yields as many batches."""
    rows = range(fabric.global_rank, -(-len(dataset) // fabric.world_size) * fabric.world_size, fabric.world_size)
    batches = [
        [min(row, len(dataset) - 1) for row in rows[first : first + size]] for first in range(0, len(rows), size)
    ]
    last = rows[-1] >= len(dataset)  # then the last tile is there to fill up, and must not count again

    def load(first: int, workers: int | None) -> Iterable[dict[str, Tensor]]:
        return fixed_loader(dataset, batches[first:], fabric.device, workers)

    for number, batch in enumerate(read_on(load, config.num_workers, stopped)):
        if last and number == len(batches) - 1:
            batch["mask"][-1] = False
        yield to_device(batch, fabric.device)

"""Tiles kept in shared memory once they have been read, for layers that cost time to decode."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import psutil

from data_recipes.tiles import TileDataset

_SHARED = Path("/dev/shm")
_MOST = 0.5  # of the memory that is free, so that the machine still has room to work


class CachedTiles(TileDataset):
    """A TileDataset whose tiles are read and decoded once, by whichever process asks first, and then shared by all.

    Kept as stored (8 or 16 bits), so a tile of 64×64×64 8-bit voxels takes 272 kB. Where layers are uncompressed files
    the system's page cache does the same for nothing; this is for compressed ones.

    Under `torchrun` every process has a cache of its own, with what it reads itself: which tiles those are changes with
    every pass, so in the end each holds them all, and the memory that may be used is shared among them.

    Raises:
        ValueError: it would take more than this process's part of half of the free (shared) memory; with how much.
    """

    def __init__(self, dataset: TileDataset):
        import torch

        super().__init__(
            dict(zip(dataset.table.fragments, dataset.fragments, strict=True)),
            dataset.table,
            dataset.contract,
            dataset.tasks,
        )
        need, free, processes = cache_bytes(dataset), free_bytes(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        if need * processes > _MOST * free:
            each = f" in each of {processes} processes" if processes > 1 else ""
            raise ValueError(
                f"{len(dataset)} tiles take {need / 1e9:.1f} GB{each}, and of {free / 1e9:.1f} GB free memory half may "
                "be used; leave cache_tiles out, or take fewer samples"
            )
        count, side = len(dataset), dataset.contract.tile
        stored = {"uint8": torch.uint8, "uint16": torch.uint16}[dataset.contract.stored_dtype]
        self._stacks = torch.empty((count, dataset.contract.depth, side, side), dtype=stored).share_memory_()
        self._labels = torch.empty((count, side, side), dtype=torch.uint8).share_memory_()
        self._masks = torch.empty((count, side, side), dtype=torch.bool).share_memory_()
        self._there = torch.zeros(count, dtype=torch.bool).share_memory_()

    def stored(self, index: int) -> tuple[Any, Any, Any]:
        """As `TileDataset.stored`."""
        import torch

        kept = self._stacks[index], self._labels[index], self._masks[index]
        if not self._there[index]:
            for own, read in zip(kept, super().stored(index), strict=True):
                own.copy_(torch.from_numpy(read))
            self._there[index] = True  # last: who sees it sees a whole tile, and two that read one write the same
        return tuple(tensor.numpy() for tensor in kept)  # pyright: ignore[reportReturnType]


def cache_bytes(dataset: TileDataset) -> int:
    """What all tiles of a dataset take as stored, with label and mask."""
    voxel = 1 if dataset.contract.stored_dtype == "uint8" else 2
    return len(dataset) * dataset.contract.tile**2 * (voxel * dataset.contract.depth + 2)


def free_bytes() -> int:
    """Memory that can be shared between processes: what is available, and no more than the shared file system holds."""
    free = psutil.virtual_memory().available
    return min(free, shutil.disk_usage(_SHARED).free) if _SHARED.is_dir() else free

"""All that decides an ink map. Written beside the map while it is being made, so that nobody goes on with another."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from data_recipes.regions import Rect
from data_recipes.tiles import InputContract
from zoo.device import Chosen
from zoo.predict.grid import Axis, Blend, Grid
from zoo.predict.predictor import Tta

_BLOCK = 2**20


class CheckpointRef(BaseModel):
    """One checkpoint of a map. `sha256` is what counts; the rest tells a reader of the map what it was.

    Attributes:
        seen: fragment -> rectangles that it was trained on, None where it does not say.
        normalisation: its contract's clip, divisor, mean and std.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    sha256: str
    model: str
    seen: dict[str, Any] | None = None
    normalisation: dict[str, Any] = {}


class Plan(BaseModel):
    """The map of one fragment. Two plans that differ in nothing but paths give the same map, bit for bit.

    Attributes:
        fragment, path, stamp: its name, where it lies here, and the digest that changes with its data.
        mask: papyrus mask that stands in for the fragment's own, or None.
        shape: (H, W) of the map in px.
        region: rectangles of whole shards (y0, y1, x0, x1 px) outside of which nothing is predicted and the map is 0;
            none: all of it is.
        contract: how layers are read: the first checkpoint's, with what the command line changed.
        voxel_um: of the map, where known.
        resampled: the map's px a px of the fragment, 1 where it was not resampled.
        overlap, stride: of the tiles; a stride in px replaces the overlap.
        batch_size: tiles computed at once; part of the plan because sums inside a convolution may depend on it.
        shard, chunk: px of the side of what is written at once, and of what is compressed at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fragment: str
    path: str
    stamp: str
    mask: str | None = None
    shape: tuple[int, int]
    region: tuple[tuple[int, int, int, int], ...] = ()
    checkpoints: tuple[CheckpointRef, ...]
    contract: InputContract
    voxel_um: float | None = None
    resampled: float = 1.0
    tile: int
    overlap: float = 0.5
    stride: int | None = None
    blend: Blend = "hann"
    tta: Tta = "none"
    task: int | None = None
    precision: Chosen = "fp32"
    compiled: bool = False
    batch_size: int = 8
    dtype: Literal["uint8", "float16"] = "uint8"
    zarr_format: Literal[2, 3] = 3
    shard: int = 1024
    chunk: int = 256

    def grid(self) -> Grid:
        """Errors as `Axis.of`."""
        height, width = self.shape
        return Grid(
            Axis.of(height, self.tile, self.overlap, self.blend, self.stride),
            Axis.of(width, self.tile, self.overlap, self.blend, self.stride),
            self.shard,
        )

    def part(self, part: int, parts: int) -> list[int]:
        """The shards of part `part` of `parts`, both from 0: of those that the region holds."""
        grid, region = self.grid(), [Rect(*rect) for rect in self.region]
        wanted = [shard for shard in range(len(grid)) if not region or any(map(grid.rect(shard).intersect, region))]
        return [wanted[number] for number in own_part(len(wanted), part, parts)]

    def differences(self, other: Plan) -> list[str]:
        """What of the two decides the map and is not the same, as `key (mine → the other's)`."""
        mine, its = self._identity(), other._identity()
        return [f"{key} ({mine[key]} → {its[key]})" for key in mine if mine[key] != its[key]]

    def _identity(self) -> dict[str, object]:
        said = self.model_dump(mode="json", exclude={"path", "mask"})  # what the mask is, is in the stamp
        said["checkpoints"] = [ref.sha256 for ref in self.checkpoints]
        return said


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def own_part(shards: int, part: int, parts: int) -> range:
    """The shards of part `part` of `parts`, both from 0: runs of equal length, up to one."""
    return range(shards * part // parts, shards * (part + 1) // parts)

"""From stored intensities to model input: the contract that says how, and the dataset that applies it.

A wrong direction, depth window or divisor costs more than any architecture wins, and nothing crashes. So all of it is
one frozen object, written into every checkpoint and checked before a prediction.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from data_recipes.regions import Rect, Region

if TYPE_CHECKING:
    from data_recipes.fragment import Fragment
    from data_recipes.table import SampleTable

_VOXEL_TOLERANCE = 0.02  # two scans that state 7.91 and 8.0 µm are still the same scale


class InputContract(BaseModel):
    """Everything between a stored layer and the number a model sees.

    value = (clip(to_8_bit(stored), *clip) / divisor − mean) / std, for `depth` layers that start at
    centre layer + offset − depth // 2, read in `direction`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stored_dtype: Literal["uint8", "uint16"]
    to_uint8: str = Field(default="none", description="how 16 bits became 8: none, high_byte or clip:LO:HI")
    source_to_uint8: str | None = Field(
        default=None, description="how layers that are stored as 8 bits had come from 16, where that is known"
    )
    depth: int = Field(ge=1)
    offset: int = Field(default=0, description="layers from the fragment's centre layer to the window's")
    direction: Literal["forward", "reverse"] = "forward"
    clip: tuple[float, float] = (0.0, 255.0)
    divisor: float = Field(default=255.0, gt=0)
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    voxel_um: float | None = None
    tile: int = Field(ge=1)

    @field_validator("to_uint8", "source_to_uint8")
    @classmethod
    def _known_conversion(cls, how: str | None) -> str | None:
        if how is not None:
            parse_to_uint8(how)
        return how

    def window(self, fragment: Fragment) -> tuple[int, int]:
        """First and last-plus-one stored layer of the depth window; may leave the volume, which is then replicated."""
        if "center_layer" in fragment.unknown:  # the middle in either direction: full depth is then 0 … Z both ways
            centre = fragment.depth // 2
        elif self._reads_as_stored(fragment):
            centre = fragment.center_layer
        else:
            centre = fragment.depth - 1 - fragment.center_layer
        first = centre + self.offset - self.depth // 2
        if self._reads_as_stored(fragment):
            return first, first + self.depth
        return fragment.depth - first - self.depth, fragment.depth - first

    def read(
        self, fragment: Fragment, y: int, x: int, height: int | None = None, width: int | None = None
    ) -> NDArray[Any]:
        """(D, height, width) of the stored dtype in the contract's direction; the tile's side where none is given."""
        z0, z1 = self.window(fragment)
        stack = fragment.read(y, y + (height or self.tile), x, x + (width or self.tile), z0, z1)
        return stack if self._reads_as_stored(fragment) else stack[::-1]

    def normalise(self, stack: NDArray[Any]) -> NDArray[np.float32]:
        """Stored intensities of any shape -> float32 model input of the same shape."""
        values = to_uint8(stack, self.to_uint8).astype(np.float32)
        np.clip(values, *self.clip, out=values)
        values *= 1.0 / (self.divisor * self.std)
        values -= self.mean / self.std
        return values

    def check(self, fragment: Fragment) -> None:
        """Raise ValueError where a fragment cannot be read as the model was trained."""
        if fragment.volume is None:
            raise ValueError(f"{fragment.name}: has labels but no layers; give the folder that holds the layers too")
        got = str(fragment.volume.dtype)
        how = self.source_to_uint8
        if got != self.stored_dtype:
            hint = "give its 16-bit layers"
            if got == "uint16":
                hint = f"convert it as the training data was: `python -m data_recipes convert --to-uint8 {how or '…'}`"
            raise ValueError(f"{fragment.name}: layers are {got}, expected {self.stored_dtype} as in training; {hint}")
        if got == "uint8" and how and fragment.to_uint8 and how != fragment.to_uint8:
            raise ValueError(
                f"{fragment.name}: its 8 bits came from 16 by {fragment.to_uint8}, expected {how} as in training; "
                f"convert the 16-bit layers with `python -m data_recipes convert --to-uint8 {how}`"
            )
        if self.voxel_um and fragment.voxel_um:
            ratio = fragment.voxel_um / self.voxel_um
            if abs(ratio - 1) > _VOXEL_TOLERANCE:
                raise ValueError(
                    f"{fragment.name}: voxels are {fragment.voxel_um} µm, expected {self.voxel_um} µm as in training; "
                    f"resample it by {ratio:.3f}, or correct voxel_um in its fragment.yaml"
                )

    def _reads_as_stored(self, fragment: Fragment) -> bool:
        return (fragment.direction or "forward") == self.direction


def parse_to_uint8(how: str) -> tuple[float, float] | None:
    """Check a conversion's name; the (low, high) of `clip:LOW:HIGH`, None for `none` and `high_byte`."""
    if how in ("none", "high_byte"):
        return None
    parts = how.split(":")
    try:
        low, high = float(parts[1]), float(parts[2])
    except (IndexError, ValueError):
        low = high = 0.0
    if len(parts) != 3 or parts[0] != "clip" or not low < high:
        raise ValueError(
            f"conversion to 8 bits {how!r} is unknown; allowed: none, high_byte, clip:LOW:HIGH with LOW < HIGH"
        )
    return low, high


def to_uint8(stack: NDArray[Any], how: str) -> NDArray[Any]:
    """Stored intensities to 8 bits. 8-bit input and `none` pass through unchanged.

    `high_byte` keeps the upper 8 of 16 bits; `clip:LOW:HIGH` maps LOW … HIGH linearly to 0 … 255, rounded.
    """
    limits = parse_to_uint8(how)
    if how == "none" or stack.dtype == np.uint8:
        return stack
    if limits is None:
        return (stack >> 8).astype(np.uint8)
    low, high = limits
    scaled = (stack.astype(np.float32) - low) * (255.0 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def fit_contract(
    fragments: Mapping[str, Fragment],
    region: Region,
    *,
    depth: int,
    tile: int,
    offset: int = 0,
    clip: tuple[float, float] | None = None,
    divisor: float = 255.0,
    to_uint8: str | None = None,
    seed: int = 0,
    tiles: int = 64,
) -> InputContract:
    """The contract for a training region, its mean and deviation measured on papyrus pixels of that region only.

    Pixels of the validation mask do not count: no training tile touches them. `tiles` windows a fragment are read, so
    the cost does not grow with the fragment. 16-bit layers are read by their high
    byte unless `to_uint8` says otherwise.
    """
    named = [fragments[name] for name in region]
    if not named:
        raise ValueError("no training region to measure intensities on")
    for fragment in named:
        if fragment.volume is None:
            raise ValueError(f"{fragment.name}: has labels but no layers, so no model can be trained on it")
    dtypes = {str(fragment.volume.dtype) for fragment in named if fragment.volume is not None}
    if len(dtypes) > 1:
        raise ValueError(f"fragments are stored as {', '.join(sorted(dtypes))}; convert them to one dtype first")
    stored = dtypes.pop()
    known = {fragment.to_uint8: fragment.name for fragment in named if stored == "uint8" and fragment.to_uint8}
    if len(known) > 1:
        told = ", ".join(f"{name} by {how}" for how, name in known.items())
        raise ValueError(
            f"8 bits came from 16 in different ways: {told}; convert all from 16 bits with one "
            "`python -m data_recipes convert --to-uint8 …`"
        )
    voxels = {fragment.voxel_um for fragment in named if fragment.voxel_um}
    if voxels and max(voxels) / min(voxels) > 1 + _VOXEL_TOLERANCE:
        raise ValueError(f"fragments have voxels of {sorted(voxels)} µm; resample them to one size first")
    raw = InputContract(
        stored_dtype=stored,  # pyright: ignore[reportArgumentType] - checked by pydantic
        to_uint8=to_uint8 or ("high_byte" if stored == "uint16" else "none"),
        source_to_uint8=next(iter(known), None),
        depth=depth,
        offset=offset,
        clip=clip or (0.0, 255.0),
        divisor=divisor,
        voxel_um=min(voxels) if voxels else None,
        tile=tile,
    )
    count, total, squares = 0, 0.0, 0.0
    for fragment in named:
        for window in _random_windows(region[fragment.name], tile, tiles, seed, fragment.name):
            inside = fragment.papyrus[window.slices]
            if fragment.validation is not None:
                inside = inside & ~fragment.validation[window.slices]
            if not inside.any():
                continue
            stack = raw.read(fragment, window.y0, window.x0, *inside.shape)
            values = raw.normalise(stack)[:, inside].astype(np.float64)
            count += values.size
            total += float(values.sum())
            squares += float(np.square(values).sum())
    if not count:
        raise ValueError(f"the training region of {', '.join(region)} holds no papyrus; check the papyrus masks")
    mean = total / count
    std = max(squares / count - mean**2, 0.0) ** 0.5
    if std == 0:
        raise ValueError(f"all training pixels have one intensity ({mean * divisor:g}); are these the right layers?")
    return raw.model_copy(update={"mean": mean, "std": std})


def _random_windows(rects: tuple[Rect, ...], tile: int, count: int, seed: int, name: str) -> list[Rect]:
    """`count` tiles inside the rectangles, cut to a rectangle that is smaller than a tile."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    areas = np.array([rect.area for rect in rects], dtype=float)
    windows = []
    for rect in (rects[k] for k in rng.choice(len(rects), size=count, p=areas / areas.sum())):
        y = rect.y0 + int(rng.integers(max(rect.height - tile, 0) + 1))
        x = rect.x0 + int(rng.integers(max(rect.width - tile, 0) + 1))
        windows.append(Rect(y, min(y + tile, rect.y1), x, min(x + tile, rect.x1)))
    return windows


class TileDataset:
    """The tiles of a sample table, read as a contract says. A map-style dataset for `torch.utils.data.DataLoader`.

    An item is a dict: `volume` (1, D, tile, tile) float32 model input; `label` (1, tile, tile) uint8 class index;
    `mask` (1, tile, tile) bool, where the label counts (papyrus and supervised); `index`, its row in the table; with
    `tasks`, `task`, the number that its fragment's name has there, for models that are conditioned on one.
    Fragments travel to worker processes by path and are reopened there.

    Raises:
        ValueError: a fragment that does not keep the contract, has no label, or has no task where others have.
    """

    def __init__(
        self,
        fragments: Mapping[str, Fragment],
        table: SampleTable,
        contract: InputContract,
        tasks: Mapping[str, int] | None = None,
    ):
        self.fragments = [fragments[name] for name in table.fragments]
        self.table = table
        self.contract = contract
        self.tasks = None if tasks is None else dict(tasks)
        without = [name for name in table.fragments if tasks is not None and name not in tasks]
        if without:
            raise ValueError(f"no task is given for {', '.join(without)}; there are {tasks}")
        for fragment in self.fragments:
            contract.check(fragment)
            if fragment.label is None:
                raise ValueError(f"{fragment.name}: has no ink label, so no model can be trained or scored on it")

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        import torch

        stack, label, mask = self.stored(index)
        item: dict[str, Any] = {
            "volume": torch.from_numpy(np.ascontiguousarray(self.contract.normalise(stack)))[None],
            "label": torch.from_numpy(np.array(label))[None],
            "mask": torch.from_numpy(np.array(mask))[None],
            "index": index,
        }
        if self.tasks is not None:
            item["task"] = self.tasks[self.table.fragments[int(self.table.fragment[index])]]
        return item

    def stored(self, index: int) -> tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.bool_]]:
        """A tile as it lies in the fragment: layers (D, tile, tile), label and mask (tile, tile)."""
        fragment = self.fragments[int(self.table.fragment[index])]
        y, x, tile = int(self.table.y[index]), int(self.table.x[index]), self.contract.tile
        window = (slice(y, y + tile), slice(x, x + tile))
        assert fragment.label is not None
        label = fragment.label[window]
        mask = fragment.papyrus[window] & fragment.supervised[window]
        if label.shape != (tile, tile):  # a fragment smaller than the tile: what lies outside never counts
            missing = ((0, tile - label.shape[0]), (0, tile - label.shape[1]))
            label, mask = np.pad(label, missing), np.pad(mask, missing)
        return np.ascontiguousarray(self.contract.read(fragment, y, x)), label, mask

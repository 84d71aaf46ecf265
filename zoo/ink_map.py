"""An ink map on disk, whoever wrote it: what it says of ink at a place, and what it says of itself.

What `python -m zoo.predict` leaves behind and `python -m zoo.evaluate` reads, in three kinds that all carry their
provenance as `stored_form` makes it: an OME-Zarr group in its attributes, a TIFF as JSON in its ImageDescription, a PNG
as JSON in a text chunk named `inkzoo`. Files of these kinds from elsewhere, and .npy, are read as they are.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_recipes.formats import image, tiff
from data_recipes.formats.arrays import LazyArray
from data_recipes.formats.zarr import is_zarr, open_zarr
from data_recipes.regions import Rect

KEY = "inkzoo"
"""Of the group's attributes, of the JSON in a TIFF's description, and the name of a PNG's text chunk."""

_KINDS = "an OME-Zarr group, a TIFF, a PNG or a .npy"
_SCAN = 2048  # px, side of the squares in which a map from elsewhere is looked through
_PARTIAL, _RECORD = ".partial", ".inkzoo"  # of a map that is being made, as `zoo.predict.store` has them
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class InkMap:
    """Ink probability (H, W), of which nothing is read until it is asked for.

    Attributes:
        path: what it was opened from.
        stored: (H, W), as it lies there.
        unit: the stored value that means a probability of 1: 255 of 8 bits, 65535 of 16, 1 of floats and masks.
        provenance: what `zoo.predict` wrote about it: among others `fragment`, `threshold`, `checkpoints` (each with
            `path`, `sha256`, `model`, and `seen`, the rectangles y0, y1, x0, x1 of each fragment that it was trained
            on), `region` (the rectangles that were predicted, none for all), `voxel_um`, `blend`, `tta`, `versions`.
            Empty for a map from elsewhere.
        notes: what a person should know of how it was read.
    """

    path: Path
    stored: LazyArray
    unit: float
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) in px."""
        height, width = self.stored.shape
        return height, width

    @property
    def threshold(self) -> float | None:
        """Ink is where the probability is no lower; None where the file does not say."""
        return self.provenance.get("threshold")

    def read(self, y0: int, y1: int, x0: int, x1: int) -> NDArray[np.float32]:
        """Probabilities (y1-y0, x1-x0); what lies outside 0 to 1 in a map of floats is handed on as it is.

        Raises:
            ValueError: an empty box, or one that leaves the map.
        """
        height, width = self.shape
        if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
            raise ValueError(
                f"{self.path}: rows {y0} to {y1} and columns {x0} to {x1} were asked for, of {height}×{width}"
            )
        values = self.stored[y0:y1, x0:x1].astype(np.float32)
        return values if self.unit == 1 else values / np.float32(self.unit)


def parse_region(text: str) -> Rect:
    """A rectangle of a map, as `--region` names it: Y0,Y1,X0,X1 in px, the last ones left out.

    Raises:
        ValueError: not four whole numbers, or nothing between them.
    """
    try:
        rect = Rect(*(int(part) for part in text.split(",")))
    except (ValueError, TypeError):
        raise ValueError(f"--region {text}: expected Y0,Y1,X0,X1 in px, such as 0,1000,500,1500") from None
    if rect.y0 >= rect.y1 or rect.x0 >= rect.x1:
        raise ValueError(f"--region {text}: is empty; expected Y0 < Y1 and X0 < X1")
    return rect


def stored_form(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What a file keeps of its provenance: the attributes of a group, and as JSON the text of a TIFF or PNG."""
    return {KEY: {"prediction": dict(provenance)}}


def open_ink_map(path: str | Path) -> InkMap:
    """Open the ink map at `path`; only headers are read, but for a map of whole numbers from elsewhere, which is looked
    through until a value above 1 shows that it is no mask of zeros and ones.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a map of `zoo.predict` that is not finished; of another kind, damaged, not one plane, of another
            dtype, or with a provenance that makes no sense.
    """
    path = Path(path).expanduser()
    _refuse_unfinished(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such prediction")
    stored, kept = _open(path)
    if stored.ndim != 2:
        size = "×".join(map(str, stored.shape))
        colour = stored.ndim == 3 and stored.shape[2] in (2, 3, 4)
        what = "is a colour image, not a map of one value a pixel" if colour else f"has shape {size}, not H×W"
        raise ValueError(f"{path}: {what}; expected one plane of ink probabilities")
    if not all(stored.shape):
        raise ValueError(f"{path}: holds no pixels ({'×'.join(map(str, stored.shape))})")
    unit = _unit(path, stored.dtype)
    provenance = _provenance(path, kept)
    if provenance is not None:
        return InkMap(path, stored, unit, provenance)
    notes = ["written by another tool: no provenance and no threshold in it"]
    if stored.dtype.kind == "u":
        unit, told = (1.0, "a mask") if _is_mask(stored) else (unit, f"probability × {unit:.0f}")
        notes.append(f"{stored.dtype} values are taken as {told}")
    return InkMap(path, stored, unit, {}, tuple(notes))


def _refuse_unfinished(path: Path) -> None:
    """Raise ValueError where this is a map that `python -m zoo.predict` has begun and not finished, by either name."""
    out = path.with_name(path.name.removesuffix(_PARTIAL))
    partial = path.with_name(out.name + _PARTIAL)
    try:
        plan = json.loads((partial / _RECORD / "plan.json").read_text(encoding="utf-8"))
        shards = math.prod(-(-side // plan["shard"]) for side in plan["shape"])
        done = len(list((partial / _RECORD / "done").iterdir()))
    except (OSError, ValueError, LookupError, TypeError):
        return
    if path == out and out.exists():
        return
    put_together = f"`python -m zoo.predict reduce {out}`"
    if done >= shards:
        raise ValueError(f"{out} is not finished: all its shards are there, and {put_together} puts it together")
    raise ValueError(
        f"{out} is not finished: {shards - done} of its {shards} shards are missing; the command that began it goes on "
        f"with it, and {put_together} names the parts that are missing where it was shared out"
    )


def _open(path: Path) -> tuple[LazyArray, Any]:
    """The stored array, and what may be provenance: attributes or text."""
    suffix = path.suffix.lower()
    if is_zarr(path):
        source = open_zarr(path)
        return source.array, source.attributes
    if path.is_dir():
        raise ValueError(f"{path}: a folder that is no zarr; expected {_KINDS}")
    if suffix in tiff.SUFFIXES:
        import tifffile

        array, _ = tiff.open_tiff(path)
        with tifffile.TiffFile(path) as opened:
            return array, opened.pages.first.description
    if suffix == ".png":
        return image.open_image(path), _png_text(path, KEY)
    if suffix == ".npy":
        return _NpyArray(path), None
    raise ValueError(f"{path}: not a prediction; expected {_KINDS}")


class _NpyArray(LazyArray):
    """A .npy, memory-mapped; nothing in it is ever unpickled."""

    def __init__(self, path: Path):
        try:
            self._mapped = np.lib.format.open_memmap(path, mode="r")
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"{path}: not a readable .npy of numbers ({error}); copy it again") from error
        self.shape = self._mapped.shape
        self.dtype = self._mapped.dtype.newbyteorder("=")

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        return np.array(self._mapped[box], self.dtype, copy=True, subok=False)


def _unit(path: Path, dtype: np.dtype) -> float:
    if dtype.kind in "bf":
        return 1.0
    if dtype in (np.uint8, np.uint16):
        return float(np.iinfo(dtype).max)
    raise ValueError(f"{path}: holds {dtype}; expected uint8, uint16, bool, or floats from 0 to 1")


def _is_mask(stored: LazyArray) -> bool:
    """Whether it holds no value above 1. A map of probabilities shows one within the first square or two."""
    height, width = stored.shape
    return not any(
        (stored[y : y + _SCAN, x : x + _SCAN] > 1).any()
        for y in range(0, height, _SCAN)
        for x in range(0, width, _SCAN)
    )


def _provenance(path: Path, kept: Any) -> dict[str, Any] | None:
    """What lies under `inkzoo` and `prediction`; None where another tool wrote the file."""
    if isinstance(kept, str):
        try:
            kept = json.loads(kept)
        except json.JSONDecodeError:
            return None  # another tool's text
    own = kept.get(KEY) if isinstance(kept, dict) else None
    found = own.get("prediction") if isinstance(own, dict) else None
    if found is None:
        return None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: its provenance is {type(found).__name__}, expected a mapping; predict it again")
    threshold = found.get("threshold")
    number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if threshold is not None and not (number and 0 <= threshold <= 1):
        raise ValueError(f"{path}: its provenance gives the threshold {threshold!r}, expected a number from 0 to 1")
    region = found.get("region") or []
    if not (isinstance(region, list) and all(map(_is_rect, region))):
        raise ValueError(f"{path}: its provenance gives the region {region!r}, expected a list of [y0, y1, x0, x1]")
    for checkpoint in found.get("checkpoints") or ():
        seen = checkpoint.get("seen") if isinstance(checkpoint, dict) else 0
        rects = list(seen.values()) if isinstance(seen, dict) else None if seen is None else [0]
        if not all(isinstance(of_one, list) and all(map(_is_rect, of_one)) for of_one in rects or ()):
            raise ValueError(
                f"{path}: its provenance has the checkpoint {checkpoint!r}; expected path, sha256 and model, and seen: "
                "for each fragment a list of [y0, y1, x0, x1]"
            )
    return found


def _is_rect(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(isinstance(side, int) for side in value)


def _png_text(path: Path, key: str) -> str | None:
    """The text chunk `key` of a PNG, wherever it stands in the file; None where there is none.

    Layout of tEXt, zTXt and iTXt as in the PNG specification, third edition, 11.3.3.
    """
    with open(path, "rb") as file:
        if file.read(8) != _PNG:
            return None
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind not in (b"tEXt", b"zTXt", b"iTXt"):
                file.seek(length + 4, 1)
                continue
            name, _, rest = file.read(length).partition(b"\0")
            file.seek(4, 1)
            if name != key.encode():
                continue
            try:
                if kind == b"tEXt":
                    return rest.decode("latin-1")
                if kind == b"zTXt":
                    return zlib.decompress(rest[1:]).decode("latin-1")
                text = rest[2:].split(b"\0", 2)[2]
                return (zlib.decompress(text) if rest[0] else text).decode("utf-8")
            except (zlib.error, UnicodeDecodeError, IndexError) as error:
                raise ValueError(f"{path}: its text chunk {key} is damaged ({error}); copy it again") from error
    return None

"""What tells that a fragment's data is still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_recipes.formats.arrays import FullPlane
from data_recipes.formats.remote import RemotePath
from data_recipes.fragment import Fragment

_BAND = 1024  # rows of a plane that are held at once
_WINDOW = 64  # px, side of what is looked at of a layer
_WINDOWS = 3  # along either axis


def data_stamp(fragment: Fragment) -> str:
    """Changes when a fragment is relabelled, masked, described or converted anew; the same on every machine.

    Every pixel of labels and masks, whatever format they are in; stored values in nine windows of the first, the middle
    and the last layer, so that the cost does not grow with the volume; what is stated of voxels and layers; content of
    descriptions and name and size of all other files beside them.
    """
    digest = hashlib.sha256()
    for path in sorted(_files(fragment.path), key=lambda p: p.as_posix()):
        described = path.suffix in (".json", ".yaml", ".yml")
        if isinstance(path, Path) and not described:
            digest.update(f"{path.name}:{path.stat().st_size};".encode())
        else:
            digest.update(f"{path.name};".encode() + path.read_bytes())
    stated = (fragment.voxel_um, fragment.direction, fragment.center_layer, fragment.to_uint8)
    digest.update(f"{stated}{fragment.shape};".encode())
    planes = {
        "label": fragment.label,
        "other_label": fragment.other_label,
        "papyrus": fragment.papyrus,
        "supervised": fragment.supervised,
        "validation": fragment.validation,
    }
    for kind, plane in planes.items():
        if plane is None or isinstance(plane, FullPlane):
            continue
        digest.update(f"{kind};".encode())
        for band in _bands(plane):
            digest.update(band)
    if fragment.volume is not None:
        digest.update(f"{fragment.volume.dtype}{fragment.volume.shape};".encode())
        for window in _windows(fragment.volume):
            digest.update(window)
    return digest.hexdigest()[:16]


def _files(path: Path | RemotePath) -> Sequence[Path | RemotePath]:
    """A file itself; of a folder its files and those of its layers, not the thousands of chunks of an array; of a
    remote zarr the metadata and descriptions."""
    if isinstance(path, RemotePath):
        return path.files()
    if path.is_file():
        return [path]
    folders = (path, path / "layers", path / "surface_volume")
    return [file for folder in folders if folder.is_dir() for file in folder.iterdir() if file.is_file()]


def _bands(plane: Any) -> Iterator[bytes]:
    """All pixels of an (H, W) plane, in bits where no value is above 1: digesting eight times as much takes seconds."""
    for top in range(0, plane.shape[0], _BAND):
        band = np.ascontiguousarray(plane[top : top + _BAND])
        bits = band.max() <= 1
        yield b"bits" if bits else b"values"
        yield (np.packbits(band) if bits else band).tobytes()


def _windows(volume: Any) -> Iterator[bytes]:
    """Stored values of a (Z, H, W) volume, in the middles of nine equal parts of three layers."""
    layers, *sides = volume.shape
    rows, columns = (
        [max((2 * part + 1) * side // (2 * _WINDOWS) - _WINDOW // 2, 0) for part in range(_WINDOWS)] for side in sides
    )
    for z in sorted({0, layers // 2, layers - 1}):
        for y in rows:
            for x in columns:
                yield np.ascontiguousarray(volume[z, y : y + _WINDOW, x : x + _WINDOW]).tobytes()

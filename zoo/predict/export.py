"""A finished map in other forms: tiled BigTIFF, PNG, preview, binary mask, Kaggle's run lengths. In bounded memory."""

from __future__ import annotations

import csv
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_recipes.files import whole_file
from zoo.ink_map import stored_form

PREVIEW = 2000
"""px of the longer side of a preview, at most."""

_BAND = 256  # rows read at once
_TIFF_TILE = 256


def write_tiff(path: Path, level: Any, provenance: Mapping[str, Any]) -> None:
    """A tiled BigTIFF of the map as it is stored, with its provenance as JSON in the image description.

    `level`: the zarr array (H, W).
    """
    import tifffile

    um = provenance.get("voxel_um")
    resolution: dict[str, Any] = {"resolution": (1e4 / um, 1e4 / um), "resolutionunit": "CENTIMETER"} if um else {}
    with whole_file(path) as partial, tifffile.TiffWriter(partial, bigtiff=True) as tiff:
        tiff.write(
            _tiff_tiles(level),
            shape=level.shape,
            dtype=level.dtype,
            tile=(_TIFF_TILE, _TIFF_TILE),
            compression="zlib",
            photometric="minisblack",
            description=described(provenance),
            metadata=None,
            software="inkzoo",
            **resolution,
        )


def _tiff_tiles(level: Any) -> Iterator[NDArray[Any]]:
    height, width = level.shape
    for y in range(0, height, _TIFF_TILE):
        band = level[y : y + _TIFF_TILE]
        for x in range(0, width, _TIFF_TILE):
            yield np.ascontiguousarray(band[:, x : x + _TIFF_TILE])


def write_png(path: Path, level: Any, provenance: Mapping[str, Any], threshold: float | None = None) -> None:
    """An 8-bit grey PNG of the map, or where `threshold` is given of ink (255) and blank (0), row by row."""
    height, width = level.shape
    with whole_file(path) as partial, partial.open("wb") as file:

        def chunk(kind: bytes, content: bytes) -> None:
            checksum = zlib.crc32(kind + content)
            file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum))

        file.write(b"\x89PNG\r\n\x1a\n")
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        chunk(b"iTXt", b"inkzoo\0\0\0\0\0" + described(provenance).encode())
        if um := provenance.get("voxel_um"):
            per_metre = round(1e6 / um)
            chunk(b"pHYs", struct.pack(">IIB", per_metre, per_metre, 1))
        packer = zlib.compressobj(6)
        for band in _grey_bands(level, threshold):
            rows = np.zeros((len(band), width + 1), np.uint8)  # each row begins with its filter, 0: none
            rows[:, 1:] = band
            if packed := packer.compress(rows.tobytes()):
                chunk(b"IDAT", packed)
        chunk(b"IDAT", packer.flush())
        chunk(b"IEND", b"")


def write_preview(path: Path, levels: list[Any], provenance: Mapping[str, Any]) -> None:
    """The finest level of a map whose longer side is at most `PREVIEW` px, as PNG."""
    at = next((at for at, level in enumerate(levels) if max(level.shape) <= PREVIEW), len(levels) - 1)
    um = provenance.get("voxel_um")
    write_png(path, levels[at], {**provenance, "voxel_um": um and um * 2**at, "level": at})


def write_submission(path: Path, level: Any, fragment: str, threshold: float) -> None:
    """Kaggle's CSV: `Id,Predicted`, run lengths of ink, 1-based, row by row."""
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([["Id", "Predicted"], [fragment]])
        file.seek(file.tell() - 1)  # over the end of the line, which goes on run by run
        for number, (start, length) in enumerate(run_lengths(level, threshold)):
            file.write(f"{' ' if number else ','}{start} {length}")
        file.write("\n")


def run_lengths(level: Any, threshold: float) -> Iterator[tuple[int, int]]:
    """(start, length) of each run of ink in row-major order, starts from 1; runs go on from row to row."""
    at, open_start = 0, None
    for band in _grey_bands(level, threshold):
        ink = np.concatenate([[open_start is not None], band.ravel() > 0])
        changes = np.flatnonzero(ink[1:] != ink[:-1]) + at
        for change in changes.tolist():
            if open_start is None:
                open_start = change
            else:
                yield open_start + 1, change - open_start
                open_start = None
        at += band.size
    if open_start is not None:
        yield open_start + 1, at - open_start


def described(provenance: Mapping[str, Any]) -> str:
    """Provenance as ASCII JSON, as `zoo.ink_map` reads it."""
    return json.dumps(stored_form(provenance))


def _grey_bands(level: Any, threshold: float | None) -> Iterator[NDArray[np.uint8]]:
    """Bands of rows, uint8: grey, or 255 where the probability is at least `threshold`."""
    for y in range(0, level.shape[0], _BAND):
        band = np.asarray(level[y : y + _BAND])
        if threshold is not None:
            prob = band.astype(np.float32) / (255 if band.dtype == np.uint8 else 1)
            yield np.where(prob >= threshold, 255, 0).astype(np.uint8)
        elif band.dtype == np.uint8:
            yield band
        else:
            yield np.rint(np.clip(band.astype(np.float32), 0, 1) * 255).astype(np.uint8)

"""PNG and JPEG of any size: the header at open time, the pixels on the first slice.

Headers are read through Pillow's own classes for the two formats and pixels by imagecodecs, so that labels beyond
Pillow's limit of 179 Mpx open while that limit stays as it is for everything else in the process.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from data_recipes.formats.arrays import LazyArray, SpilledArray

SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_PIXELS = 1 << 32
"""More than any segment has; a header that promises more is damaged."""


def open_image(path: Path) -> LazyArray:
    """(H, W) uint8 or uint16, or (H, W, samples) for a colour image.

    Raises:
        ValueError: not a PNG or JPEG, or damaged.
    """
    from PIL import JpegImagePlugin, PngImagePlugin

    jpeg = path.suffix.lower() != ".png"
    kind: Any = JpegImagePlugin.JpegImageFile if jpeg else PngImagePlugin.PngImageFile
    try:
        with open(path, "rb") as file:
            head = kind(file)
            (width, height), mode = head.size, head.mode
            deep = mode.startswith("I") and not jpeg
            palette = mode == "P"
            transparent = "transparency" in head.info
    except (SyntaxError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not a readable {'JPEG' if jpeg else 'PNG'} ({error}); copy it again") from error
    if height * width > MAX_PIXELS:
        raise ValueError(f"{path}: its header promises {height}×{width} px, which no segment has: damaged?")
    samples = 3 if palette else len(head.getbands())
    samples += 1 if transparent and samples in (1, 3) else 0
    if not jpeg and path.stat().st_size and _png_depth(path) == 16:
        deep = True
    shape = (height, width) if samples == 1 else (height, width, samples)
    dtype = np.dtype(np.uint16 if deep else np.uint8)
    return SpilledArray(shape, dtype, lambda out: _decode(path, jpeg, out), str(path))


def _png_depth(path: Path) -> int:
    with open(path, "rb") as file:
        return file.read(25)[24]


def _decode(path: Path, jpeg: bool, out: np.ndarray) -> None:
    import imagecodecs

    decode: Any = imagecodecs.jpeg8_decode if jpeg else imagecodecs.png_decode
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as encoded:
        view = memoryview(encoded)
        try:
            decode(view, out=out)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path}: cannot be decoded ({error}); truncated? copy it again") from error
        finally:
            view.release()


class BrightestSample(LazyArray):
    """(H, W) from (H, W, samples): the largest of the colour samples. For labels and masks saved in colour."""

    def __init__(self, stored: LazyArray):
        self._stored, self.shape, self.dtype = stored, stored.shape[:2], stored.dtype
        samples = stored.shape[2]
        self._colours = samples - (samples in (2, 4))  # the last of two or four is opacity

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        return self._stored[(*box, slice(0, self._colours))].max(axis=2)

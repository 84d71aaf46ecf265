"""TIFF and BigTIFF, one page or many, striped or tiled, raw or compressed.

Raw pages are memory-mapped. Of compressed pages only the strips or tiles that a slice touches are read and decoded,
with a small cache a process; a page that is one large compressed strip is decoded whole into a temporary file.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_recipes.formats.arrays import LazyArray, MappedArray, SpilledArray, StackedLayers

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

SUFFIXES = (".tif", ".tiff")
CACHE_BYTES = 64 << 20
SPILL_BYTES = 8 << 20
"""A segment that decodes to more than this is not worth decoding once a tile."""


def open_tiff(path: Path) -> tuple[LazyArray, float | None]:
    """All pages of a TIFF as one array without axes of length one, and the voxel size in µm where its tags state it.

    Raises:
        ValueError: not a TIFF, truncated, pages of several sizes.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as tif:
            return _open(tif, path), _voxel_um(tif)
    except tifffile.TiffFileError as error:
        raise ValueError(f"{path}: not a readable TIFF ({error}); truncated? copy it again") from error
    except (IndexError, KeyError, TypeError) as error:  # what tifffile meets in damaged tags
        raise ValueError(f"{path}: not a readable TIFF ({type(error).__name__}: {error}); damaged?") from error


def _open(tif: TiffFile, path: Path) -> LazyArray:
    import tifffile

    if not tif.series:
        raise ValueError(f"{path}: a TIFF without an image; truncated? copy it again")
    series = tif.series[0]
    keyframe = series.keyframe
    if keyframe.dtype is None:
        raise ValueError(f"{path}: unknown dtype ({keyframe.bitspersample} bits a sample); expected uint8 or uint16")
    if series.dataoffset is not None and keyframe.is_memmappable:
        stored = np.dtype(tif.byteorder + series.dtype.char)
        return MappedArray(path, series.dataoffset, _squeeze(series.shape), stored)
    pages = [page for page in tif.pages if isinstance(page, tifffile.TiffPage) and not page.is_reduced]
    sizes = sorted({(page.shape, str(page.dtype)) for page in pages})
    if len(sizes) > 1:
        told = ", ".join(f"{'×'.join(map(str, shape))} {dtype}" for shape, dtype in sizes)
        raise ValueError(f"{path}: pages of several sizes ({told}); expected one size and dtype for all layers")
    layers = [_open_page(tif, page, path, i) for i, page in enumerate(pages)]
    return layers[0] if len(layers) == 1 else StackedLayers(layers)


def _squeeze(shape: tuple[int, ...]) -> tuple[int, ...]:
    kept = tuple(side for side in shape[:-2] if side != 1)
    return (*kept, *shape[-2:])


def _open_page(tif: TiffFile, page: TiffPage, path: Path, index: int) -> LazyArray:
    size = path.stat().st_size
    promised = max((o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False) if n), default=0)
    if promised > size:
        raise ValueError(f"{path}: truncated: {size} bytes, its header promises {promised}; copy it again")
    dtype = np.dtype(page.dtype)
    if page.is_memmappable:
        return MappedArray(path, page.dataoffsets[0], page.shape, np.dtype(tif.byteorder + dtype.char))
    segment_bytes = int(np.prod(page.chunks)) * dtype.itemsize
    if segment_bytes > SPILL_BYTES or page.samplesperpixel > 1:
        return SpilledArray(page.shape, dtype, lambda out: _decode_page(path, index, out), str(path))
    return SegmentedPage(path, page, index)


def _decode_page(path: Path, index: int, out: np.ndarray) -> None:
    import tifffile

    with tifffile.TiffFile(path) as tif:
        try:
            out[...] = tif.pages[index].asarray()
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path}: cannot be decoded ({error}); damaged? copy it again") from error


class _SegmentCache:
    def __init__(self) -> None:
        self._kept: OrderedDict[tuple, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple) -> np.ndarray | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: tuple, segment: np.ndarray) -> None:
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = segment
            self._bytes += segment.nbytes
            while self._bytes > CACHE_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes


_cache = _SegmentCache()


class SegmentedPage(LazyArray):
    """One compressed page of one sample a pixel, (H, W) or (Z, H, W): decodes the strips or tiles that are touched."""

    def __init__(self, path: Path, page: TiffPage, index: int):
        self.path, self._page, self.shape = path, page, page.shape
        self.dtype = np.dtype(page.dtype).newbyteorder("=")
        self._chunk = (1,) * (len(self.shape) - len(page.chunks)) + tuple(page.chunks)
        self._grid = tuple(-(-side // step) for side, step in zip(self.shape, self._chunk, strict=True))
        self._key = (str(path), path.stat().st_mtime_ns, index)

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        out = np.empty([s.stop - s.start for s in box], self.dtype)
        touched = [range(s.start // step, (s.stop - 1) // step + 1) for s, step in zip(box, self._chunk, strict=True)]
        with open(self.path, "rb") as file:
            for place in product(*touched):
                segment = self._segment(file, place)
                corner = [at * step for at, step in zip(place, self._chunk, strict=True)]
                there, here = [], []
                for s, start, side in zip(box, corner, segment.shape, strict=True):
                    low, high = max(s.start, start), min(s.stop, start + side)
                    there.append(slice(low - s.start, high - s.start))
                    here.append(slice(low - start, high - start))
                out[tuple(there)] = segment[tuple(here)]
        return out[tuple(slice(None, None, s.step) for s in box)]

    def _segment(self, file, place: tuple[int, ...]) -> np.ndarray:
        number = int(np.ravel_multi_index(place, self._grid))
        found = _cache.get((*self._key, number))
        if found is not None:
            return found
        page = self._page
        offset, count = page.dataoffsets[number], page.databytecounts[number]
        valid = [min(step, side - at * step) for at, step, side in zip(place, self._chunk, self.shape, strict=True)]
        if count == 0:  # a segment that was left out of a sparse file
            segment = np.full(valid, page.nodata, self.dtype)
        else:
            file.seek(offset)
            try:
                decoded = page.decode(file.read(count), number, jpegtables=page.jpegtables)[0]
            except (RuntimeError, ValueError) as error:
                raise ValueError(f"{self.path}: cannot be decoded ({error}); damaged? copy it again") from error
            decoded = np.asarray(decoded)[..., 0]  # (Z, H, W, samples) -> (Z, H, W)
            segment = decoded.reshape(decoded.shape[-len(valid) :])[tuple(slice(0, n) for n in valid)]
            segment = np.array(segment, self.dtype)
        _cache.put((*self._key, number), segment)
        return segment


def _voxel_um(tif: TiffFile) -> float | None:
    """From the resolution tags, where they state a plausible voxel (a scanner's 72 dpi would be 353 µm)."""
    page = tif.pages.first
    tag, unit = page.tags.get("XResolution"), page.tags.get("ResolutionUnit")
    if tag is None or not isinstance(tag.value, tuple) or 0 in tag.value:
        return None
    per_unit = tag.value[0] / tag.value[1]
    named = str((tif.imagej_metadata or {}).get("unit", "")).lower() if tif.is_imagej else ""
    if named in ("um", "µm", "micron", "microns", "\\u00b5m"):
        um = 1 / per_unit
    elif unit is not None and int(unit.value) in (2, 3):
        um = (25400 if int(unit.value) == 2 else 10000) / per_unit
    else:
        return None
    return um if 0.05 <= um <= 50 else None

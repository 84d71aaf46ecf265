"""Arrays that read nothing until they are sliced. Every format answers with these; they behave like numpy under `[]`.

Anonymous memory stays bounded: raw data are memory-mapped, and what must be decoded whole (a PNG, a JPEG) is decoded
once a process into an unlinked temporary file that is memory-mapped too.
"""

from __future__ import annotations

import operator
import os
import resource
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class LazyArray:
    """Base: subclasses set `shape` and `dtype` and implement `_read`. Slicing always answers with an own copy."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        """One slice with start, stop and a step ≥ 1 for each axis -> array; every slice selects something."""
        raise NotImplementedError

    def __getitem__(self, key: Any) -> np.ndarray:
        keys = list(key) if isinstance(key, tuple) else [key]
        if any(k is Ellipsis for k in keys):
            at = next(i for i, k in enumerate(keys) if k is Ellipsis)
            keys[at : at + 1] = [slice(None)] * (self.ndim - len(keys) + 1)
        keys += [slice(None)] * (self.ndim - len(keys))
        if len(keys) != self.ndim:
            raise IndexError(f"got {len(keys)} indices for an array of shape {self.shape}")
        box, squeeze, lengths = [], [], []
        for axis, (k, size) in enumerate(zip(keys, self.shape, strict=True)):
            if isinstance(k, slice):
                start, stop, step = k.indices(size)
                if step < 1:
                    raise IndexError("a negative step is not possible here: read first, then reverse")
                box.append(slice(start, stop, step))
            else:
                at = operator.index(k)
                if not -size <= at < size:
                    raise IndexError(f"index {at} is outside axis {axis} of size {size}")
                box.append(slice(at % size, at % size + 1, 1))
                squeeze.append(axis)
            lengths.append(len(range(box[-1].start, box[-1].stop, box[-1].step)))
        out = self._read(tuple(box)) if all(lengths) else np.empty(lengths, self.dtype)
        return out.squeeze(tuple(squeeze)) if squeeze else out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self[...]
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __len__(self) -> int:
        return self.shape[0]


class _OpenMaps:
    """The memory maps of this process, least recently used first.

    Each map holds a file descriptor, and a fragment has a file a layer: without a limit a handful of fragments would
    exhaust the process's descriptors.
    """

    def __init__(self) -> None:
        self._maps: OrderedDict[tuple, np.memmap] = OrderedDict()
        self._lock = threading.Lock()
        self._limit = 0

    def get(self, key: tuple, path: Path, dtype: np.dtype, offset: int, shape: tuple[int, ...]) -> np.memmap:
        with self._lock:
            found = self._maps.get(key)
            if found is None:
                self._limit = self._limit or _descriptor_share()
                while len(self._maps) >= self._limit:
                    self._maps.popitem(last=False)
                found = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
                self._maps[key] = found
            self._maps.move_to_end(key)
            return found


def _descriptor_share() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1024 if soft == resource.RLIM_INFINITY else max(16, min(1024, soft // 4))


_open_maps = _OpenMaps()


class MappedArray(LazyArray):
    """Raw values in a file from `offset` on, C order. Mapped on the first slice."""

    def __init__(self, path: Path, offset: int, shape: Sequence[int], dtype: np.dtype):
        self.path, self.offset, self.shape = path, offset, tuple(shape)
        self._stored = np.dtype(dtype)
        self.dtype = self._stored.newbyteorder("=")
        status = path.stat()
        promised = offset + int(np.prod(self.shape)) * self._stored.itemsize
        if status.st_size < promised:
            raise ValueError(
                f"{path}: truncated: {status.st_size} bytes, its header promises {promised}; copy it again"
            )
        self._key = (str(path), status.st_mtime_ns, offset, self.shape, self._stored.str)

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        mapped = _open_maps.get(self._key, self.path, self._stored, self.offset, self.shape)
        return np.array(mapped[box], dtype=self.dtype, copy=True, subok=False)


class SpilledArray(LazyArray):
    """What can only be decoded whole: decoded on the first slice into an unlinked temporary file, then mapped.

    Args:
        decode: fills the (H, W, …) array that it is given, which lies in that file.
        what: the file's name, for messages.
    """

    def __init__(self, shape: Sequence[int], dtype: np.dtype, decode: Callable[[np.ndarray], None], what: str):
        self.shape, self.dtype, self._decode, self._what = tuple(shape), np.dtype(dtype), decode, what
        self._whole: np.memmap | None = None
        self._lock = threading.Lock()

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        with self._lock:
            if self._whole is None:
                whole = spill(self.shape, self.dtype, self._what)
                self._decode(whole)
                self._whole = whole
        return np.array(self._whole[box], copy=True, subok=False)


def spill(shape: Sequence[int], dtype: np.dtype, what: str) -> np.memmap:
    """A writable array in an unlinked temporary file (in $TMPDIR): file pages, not anonymous memory."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with tempfile.TemporaryFile(prefix="inkzoo-") as file:
        try:
            if hasattr(os, "posix_fallocate"):  # a full disk is an error here, not a SIGBUS later
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
        except OSError as error:
            where = tempfile.gettempdir()
            raise OSError(error.errno, f"{error.strerror} in {where} for decoding {what} ({size >> 20} MiB)") from error
        return np.memmap(file, dtype=dtype, mode="r+", shape=tuple(shape))


class StackedLayers(LazyArray):
    """(Z, H, W) from Z planes of one shape and dtype."""

    def __init__(self, layers: Sequence[LazyArray]):
        self.layers = list(layers)
        self.shape = (len(self.layers), *self.layers[0].shape)
        self.dtype = self.layers[0].dtype

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        indices = range(box[0].start, box[0].stop, box[0].step)
        plane = tuple(len(range(s.start, s.stop, s.step)) for s in box[1:])
        out = np.empty((len(indices), *plane), self.dtype)
        for i, z in enumerate(indices):
            out[i] = self.layers[z][box[1:]]
        return out


class Squeezed(LazyArray):
    """An array without the axes of length one, or a single plane of it (`at` picks the index on leading axes)."""

    def __init__(self, array: LazyArray, at: tuple[int | None, ...]):
        self._array, self._at = array, at
        self.shape = tuple(s for s, i in zip(array.shape, at, strict=True) if i is None)
        self.dtype = array.dtype

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        rest = iter(box)
        return self._array[tuple(next(rest) if i is None else i for i in self._at)]


class FullPlane(LazyArray):
    """True everywhere: what stands in for a mask that is not there."""

    def __init__(self, shape: tuple[int, int]):
        self.shape, self.dtype = shape, np.dtype(bool)

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        return np.ones([len(range(s.start, s.stop, s.step)) for s in box], bool)


class MaskPlane(LazyArray):
    """(H, W) bool: every value above 0 is True."""

    def __init__(self, stored: LazyArray):
        self.stored, self.shape, self.dtype = stored, stored.shape, np.dtype(bool)

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        return self.stored[box] > 0


class LabelPlane(LazyArray):
    """(H, W) uint8 class index: `classes` maps stored values to indices; without it, everything above 0 is class 1."""

    def __init__(self, stored: LazyArray, classes: Mapping[int, int] | None = None, what: str = "label"):
        self.stored, self.shape, self.dtype = stored, stored.shape, np.dtype(np.uint8)
        self._classes, self._what = dict(classes or {}), what

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        stored = self.stored[box]
        if not self._classes:
            return (stored > 0).astype(np.uint8)
        out = np.full(stored.shape, 255, np.uint8)
        for value, index in self._classes.items():
            out[stored == value] = index
        if (out == 255).any():
            strange = sorted(np.unique(stored[out == 255]).tolist())[:5]
            raise ValueError(f"{self._what}: holds values {strange}, label_values names {sorted(self._classes)}")
        return out

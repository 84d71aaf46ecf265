"""Reading a few chunks out of a sharded zarr v3 on disk: what a random tile needs, with little around the decoding.

zarr-python answers a small read through an event loop, threads, and the shard's index read and checked anew: as long
again as the decoding takes. Here the index of a shard is kept, and chunks are decoded one after another in the thread
that asks, which is what a process that reads tiles for training wants. What is not plainly such an array is left to
zarr (`Shards.of` answers None).
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KEPT = 256  # indices of shards
_NOTHING = 2**64 - 1  # offset and length of a chunk that was never written
_CRC = 4  # bytes

Decode = Callable[[bytes], bytes]


class Shards:
    """A sharded array on disk, read-only. A shard that is written again is noticed by its time and size.

    Args:
        path: of the array, where zarr.json lies.
        shard, chunk: pixels of either, an axis each.
        key: the path of a shard below `path`, from its place in the grid of shards.
        decode: the bytes of a stored chunk -> those of its values.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        dtype: np.dtype,
        shard: tuple[int, ...],
        chunk: tuple[int, ...],
        fill: NDArray[Any],
        key: Callable[[tuple[int, ...]], str],
        decode: Decode,
    ):
        self.path, self.shape, self.dtype, self.shard, self.chunk = path, shape, dtype, shard, chunk
        self.fill, self._key, self._decode = fill, key, decode
        self._grid = tuple(s // c for s, c in zip(shard, chunk, strict=True))
        self._indices: OrderedDict[str, tuple[tuple[int, int], NDArray[np.uint64]]] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def of(cls, path: Path, metadata: Mapping[str, Any]) -> Shards | None:
        """From the content of zarr.json; None where anything in it is not understood here."""
        try:
            return cls._of(path, metadata)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            return None

    @classmethod
    def _of(cls, path: Path, metadata: Mapping[str, Any]) -> Shards | None:
        if metadata["chunk_grid"]["name"] != "regular" or metadata.get("storage_transformers"):
            return None
        (sharding,) = metadata["codecs"]
        inside = sharding["configuration"]
        sums = [codec["name"] for codec in inside["index_codecs"]]
        if sharding["name"] != "sharding_indexed" or inside.get("index_location", "end") != "end":
            return None
        if sums != ["bytes", "crc32c"] or not _little(inside["index_codecs"][0]):
            return None
        dtype = np.dtype(metadata["data_type"])
        fill = np.array(metadata["fill_value"], dtype)
        first, *rest = inside["codecs"]
        if first["name"] != "bytes" or not (dtype.itemsize == 1 or _little(first)):
            return None
        steps = [_step(codec) for codec in reversed(rest)]
        shard, chunk = tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"]), tuple(inside["chunk_shape"])
        naming = metadata["chunk_key_encoding"]
        if naming["name"] != "default" or any(s % c for s, c in zip(shard, chunk, strict=True)):
            return None
        separator = (naming.get("configuration") or {}).get("separator", "/")

        def decode(stored: bytes) -> bytes:
            for step in steps:
                stored = step(stored)
            return stored

        return cls(
            path,
            tuple(metadata["shape"]),
            dtype.newbyteorder("<"),
            shard,
            chunk,
            fill,
            lambda place: separator.join(["c", *map(str, place)]),
            decode,
        )

    def read(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """The values inside a box of slices with start and stop.

        Raises:
            ValueError: a shard that is truncated or damaged, named.
            OSError: one that cannot be read.
        """
        out = np.full([s.stop - s.start for s in box], self.fill, self.dtype)
        shards = [range(s.start // side, -(-s.stop // side)) for s, side in zip(box, self.shard, strict=True)]
        for place in itertools.product(*shards):
            name = self._key(place)
            try:
                file = os.open(self.path / name, os.O_RDONLY)
            except FileNotFoundError:  # nothing but the fill value
                continue
            try:
                self._read_shard(file, name, place, box, out)
            except (ValueError, RuntimeError) as error:  # a decoder's own complaint
                raise ValueError(f"{self.path / name}: cannot be decoded ({error}); damaged? copy it again") from error
            finally:
                os.close(file)
        return out

    def _read_shard(
        self, file: int, name: str, place: tuple[int, ...], box: tuple[slice, ...], out: NDArray[Any]
    ) -> None:
        index = self._index(file, name)
        corner = [at * side for at, side in zip(place, self.shard, strict=True)]
        inside = [
            slice(max(s.start - at, 0), min(s.stop - at, side))
            for s, at, side in zip(box, corner, self.shard, strict=True)
        ]
        chunks = [range(s.start // side, -(-s.stop // side)) for s, side in zip(inside, self.chunk, strict=True)]
        places = [(number, *map(int, index[number])) for number in itertools.product(*chunks)]
        places = [place for place in places if place[1:] != (_NOTHING, _NOTHING)]
        if hasattr(os, "posix_fadvise"):  # the disk fetches all at once, and goes on while the first is decoded
            for _, offset, length in places:
                os.posix_fadvise(file, offset, length, os.POSIX_FADV_WILLNEED)
        for number, offset, length in places:
            stored = os.pread(file, length, offset)
            if len(stored) != length:
                raise ValueError(f"chunk {number} is cut off after {len(stored)} of {length} bytes")
            values = np.frombuffer(self._decode(stored), self.dtype).reshape(self.chunk)
            first = [at * side for at, side in zip(number, self.chunk, strict=True)]
            part = [
                slice(max(s.start, at), min(s.stop, at + side))
                for s, at, side in zip(inside, first, self.chunk, strict=True)
            ]
            target = tuple(
                slice(p.start + at - s.start, p.stop + at - s.start) for p, at, s in zip(part, corner, box, strict=True)
            )
            out[target] = values[tuple(slice(p.start - at, p.stop - at) for p, at in zip(part, first, strict=True))]

    def _index(self, file: int, name: str) -> NDArray[np.uint64]:
        """(chunks an axis …, 2) offset and length in bytes."""
        stat = os.fstat(file)
        now = stat.st_mtime_ns, stat.st_size
        with self._lock:
            if name in self._indices and self._indices[name][0] == now:
                self._indices.move_to_end(name)
                return self._indices[name][1]
        size = 16 * int(np.prod(self._grid))
        stored = os.pread(file, size + _CRC, max(stat.st_size - size - _CRC, 0))
        if len(stored) != size + _CRC:
            raise ValueError(f"{stat.st_size} bytes hold no index of {size + _CRC}")
        index = np.frombuffer(_checked(stored), "<u8").reshape(*self._grid, 2)
        with self._lock:
            self._indices[name] = now, index
            if len(self._indices) > _KEPT:
                self._indices.popitem(last=False)
        return index


def _little(codec: Mapping[str, Any]) -> bool:
    return (codec.get("configuration") or {}).get("endian") == "little"


def _step(codec: Mapping[str, Any]) -> Decode:
    """What undoes one codec; KeyError for one that is left to zarr."""
    import numcodecs

    settings = codec.get("configuration") or {}
    known: dict[str, Callable[[], Decode]] = {
        "zstd": lambda: numcodecs.Zstd(checksum=bool(settings.get("checksum"))).decode,
        "blosc": lambda: numcodecs.Blosc().decode,
        "gzip": lambda: numcodecs.GZip().decode,
        "crc32c": lambda: _checked,
    }
    return known[codec["name"]]()


def _checked(stored: bytes) -> bytes:
    """The bytes before their CRC-32C; ValueError where it is another."""
    import google_crc32c

    content, expected = stored[:-_CRC], stored[-_CRC:]
    if google_crc32c.value(content).to_bytes(_CRC, "little") != expected:
        raise ValueError("its checksum is wrong")
    return content

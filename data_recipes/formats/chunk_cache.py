"""The chunks of a remote zarr: kept as they came, up to a bound, each fetched once however many ask for it.

INKZOO_CHUNK_CACHE_MB in the environment bounds what a process keeps (512); the least recently used goes first.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import Future

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from data_recipes.formats.layout import Layout
from data_recipes.formats.transfer import Span, fetch, number, told

Key = tuple[str, Span | None]
_OVERHEAD = 256  # bytes that an entry costs beside its content, so that absent chunks count too


class ChunkCache:
    """Bytes of (URL, span), least recently used first; None is a chunk that is not there. Safe for threads."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything. Makes its lock anew: another thread may have held it when this process was forked."""
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, bytes | None] = OrderedDict()
        self._coming: dict[Key, Future[bytes | None]] = {}
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        """What is kept, in bytes."""
        return self._bytes

    def get(self, key: Key, start: Callable[[], Future[bytes | None]], fresh: bool = False) -> Future[bytes | None]:
        """What is kept, or the fetch under way, or a new one that `start` begins.

        Args:
            fresh: what is kept turned out damaged: drop it, fetch again.
        """
        with self._lock:
            if fresh:
                self._drop(key)
            found = self._find(key)
            if found is not None:
                return found
            if key in self._coming:
                return self._coming[key]
            future = self._coming[key] = start()
        future.add_done_callback(lambda done: self._arrived(key, done))  # not under the lock: it may be done already
        return future

    def _find(self, key: Key) -> Future[bytes | None] | None:
        url, span = key
        body: bytes | None
        if key in self._kept:
            body = self._kept[key]
        elif span is not None and self._kept.get((url, None)) is not None:  # of a shard that was read whole
            key, whole = (url, None), self._kept[(url, None)]
            assert whole is not None
            body = whole[span[0] : span[1]]
            if len(body) != (-span[0] if span[0] < 0 else (span[1] or len(whole)) - span[0]):
                return None
        else:
            return None
        self._kept.move_to_end(key)
        future: Future[bytes | None] = Future()
        future.set_result(body)
        return future

    def _arrived(self, key: Key, done: Future[bytes | None]) -> None:
        with self._lock:
            if self._coming.get(key) is done:
                del self._coming[key]
            if done.cancelled() or done.exception() is not None:
                return
            self._drop(key)
            body, limit = done.result(), int(number("INKZOO_CHUNK_CACHE_MB", 512) * 2**20)
            if _size(body) > limit:
                return
            self._kept[key] = body
            self._bytes += _size(body)
            while self._bytes > limit:
                self._bytes -= _size(self._kept.popitem(last=False)[1])

    def _drop(self, key: Key) -> None:
        """And the whole that it may be part of, and the parts of the whole."""
        url, span = key
        for one in [key, (url, None)] if span is not None else [k for k in self._kept if k[0] == url]:
            if one in self._kept:
                self._bytes -= _size(self._kept.pop(one))


def _size(body: bytes | None) -> int:
    return len(body or b"") + _OVERHEAD


cache = ChunkCache()
os.register_at_fork(after_in_child=cache.clear)


class ChunkStore(Store):
    """A zarr store that only reads: metadata as they were read before, chunks through the cache.

    Args:
        locate: a chunk's key -> its URL.
        documents: file name -> content, of the metadata.
        fresh: fetch anew what the cache holds, because what came before was damaged.

    `asked` lists what was asked for, for messages.
    """

    supports_writes = supports_deletes = supports_listing = False  # type: ignore[assignment]

    def __init__(
        self, locate: Callable[[str], str], documents: Mapping[str, bytes], layout: Layout, fresh: bool = False
    ):
        super().__init__(read_only=True)
        self._locate, self._documents, self._layout, self._fresh = locate, documents, layout, fresh
        self.asked: list[str] = []

    def __eq__(self, value: object) -> bool:
        return self is value

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if "/" not in key and key.startswith((".z", "zarr.json")):
            body = self._documents.get(key)
        else:
            url, span = self._locate(key), _span(byte_range)
            if self._fresh:
                self.asked.append(told(url, span))
            coming = cache.get((url, span), lambda: fetch(url, span), self._fresh)
            body = await asyncio.shield(asyncio.wrap_future(coming))  # others may wait for the same chunk
            self._layout.check(body, span, gone=self._fresh)
        return None if body is None else prototype.buffer.from_bytes(body)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        return key in self._documents

    async def set(self, key: str, value: Buffer) -> None:
        raise NotImplementedError("a remote zarr is only read")

    async def delete(self, key: str) -> None:
        raise NotImplementedError("a remote zarr is only read")

    def list(self) -> AsyncIterator[str]:
        raise NotImplementedError("a remote folder cannot be listed")

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        raise NotImplementedError("a remote folder cannot be listed")

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        raise NotImplementedError("a remote folder cannot be listed")


def _span(asked: ByteRequest | None) -> Span | None:
    if asked is None:
        return None
    if isinstance(asked, RangeByteRequest):
        return asked.start, asked.end
    if isinstance(asked, OffsetByteRequest):
        return asked.offset, None
    assert isinstance(asked, SuffixByteRequest)
    return -asked.suffix, None

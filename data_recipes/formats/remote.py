"""Files over HTTP(S) and on S3 as paths, and a remote zarr's array: what the formats need, so that they stay one code.

A server's folders cannot be listed, so whatever may lie somewhere is asked for by name. Importing this module costs
nothing: fsspec and aiohttp come with the first request, zarr with the first slice.
"""

from __future__ import annotations

import json
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from itertools import product
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import numpy as np

from data_recipes.formats.arrays import LazyArray
from data_recipes.formats.layout import Layout

if TYPE_CHECKING:
    from data_recipes.formats.chunk_cache import ChunkStore

CONCURRENT = 16
"""Chunks that one slice asks for at the same time."""

_URL = re.compile(r"(https?|s3):/+(.*)", re.DOTALL | re.IGNORECASE)
Box = tuple[slice, ...]
Parts = tuple[str, ...]


def is_url(path: object) -> bool:
    """Whether this names something over HTTP(S) or on S3; also after `Path` took one of its slashes away."""
    return _URL.fullmatch(str(path)) is not None


class _Known:
    """What the paths of one opening share: each file is asked for once."""

    def __init__(self) -> None:
        self.files: dict[Parts, Future[bytes | None]] = {}
        self.complete: dict[Parts, Sequence[str]] = {}  # folder -> names that are known to the last one below it
        self.refused: list[str] = []
        self.process = os.getpid()


class RemotePath:
    """The part of `pathlib.Path` that reading small files needs, for a URL. Pickles as its URL.

    Args:
        url: `https://host/a/b`, `http://…` or `s3://bucket/a/b`.

    Raises:
        ValueError: a URL with a password or a query in it: it would be written into results.
    """

    def __init__(self, url: str):
        match = _URL.fullmatch(url)
        if match is None:
            raise ValueError(f"{url}: not a URL of http, https or s3")
        scheme, (host, *parts) = match[1].lower(), match[2].split("/")
        if scheme != "s3":
            if "@" in host:
                raise ValueError(
                    f"a URL on {host.rpartition('@')[2]} with a password in it: put it in ~/.netrc instead"
                )
            if "?" in url or "#" in url:
                raise ValueError(f"{url.partition('?')[0]}: ? and # cannot be in a zarr's URL (in a name: %3F, %23)")
            parts = [unquote(part) for part in parts]
        if not host:
            raise ValueError(f"{url}: names no {'bucket' if scheme == 's3' else 'host'}")
        self._root, self._parts, self._known = f"{scheme}://{host}", tuple(p for p in parts if p), _Known()

    def _sibling(self, parts: Parts) -> RemotePath:
        other = object.__new__(RemotePath)
        other._root, other._parts, other._known = self._root, parts, self._known
        return other

    def __truediv__(self, name: str) -> RemotePath:
        return self._sibling((*self._parts, *(part for part in name.split("/") if part)))

    def __str__(self) -> str:
        parts = self._parts if self._root.startswith("s3:") else map(quote, self._parts)
        return "/".join([self._root, *parts])

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self):
        return RemotePath, (str(self),)

    @property
    def name(self) -> str:
        """The last part, or the host or bucket."""
        return self._parts[-1] if self._parts else self._root.partition("://")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix if self._parts else ""

    @property
    def parent(self) -> RemotePath:
        return self._sibling(self._parts[:-1])

    def as_posix(self) -> str:
        return str(self)

    def is_dir(self) -> bool:
        """True: there is no asking for a folder, only for the files in it."""
        return True

    def is_file(self) -> bool:
        """Whether the server has it. False where it refuses access, which `notes` then tells."""
        try:
            return self._content() is not None
        except PermissionError:
            if str(self) not in self._known.refused:
                self._known.refused.append(str(self))
            return False

    def read_bytes(self) -> bytes:
        """Its content, asked for once an opening.

        Raises:
            FileNotFoundError, OSError: not there, or not read.
        """
        content = self._content()
        if content is None:
            raise FileNotFoundError(f"{self}: not there")
        return content

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def look(self, *names: str) -> None:
        """Ask for files in this folder at the same time, without waiting for them."""
        for name in names:
            (self / name)._ask()

    def state(self, documents: Mapping[str, bytes], names: Sequence[str]) -> None:
        """These files below this folder are known, and no others of these names lie there: nothing to ask for."""
        self._known.complete[self._parts] = names
        for name, content in documents.items():
            self._known.files.setdefault((self / name)._parts, _done(content))

    def files(self) -> list[RemotePath]:
        """The files right in this folder that were asked for and are there."""
        inside = [self._sibling(parts) for parts in sorted(self._known.files) if parts[:-1] == self._parts]
        return [file for file in inside if file.is_file()]

    def stamp(self) -> list[int]:
        """[files, bytes, checksum] of the files right in this folder that were asked for."""
        contents = [file.read_bytes() for file in self.files()]
        return [len(contents), sum(map(len, contents)), zlib.crc32(b"".join(contents))]

    def refused(self) -> list[str]:
        """The files that the server refused access to."""
        return list(self._known.refused)

    def notes(self) -> list[str]:
        """What a person should know of how it was read."""
        from data_recipes.formats.transfer import is_anonymous

        notes = []
        if self._root.startswith("s3:") and is_anonymous():
            notes.append("no AWS credentials were found: read anonymously")
        if self._known.refused:
            count = len(self._known.refused)
            notes.append(f"the server refused access to {count} names, taken as not there: {self._known.refused[0]} …")
        return notes

    def _content(self) -> bytes | None:
        return self._ask().result()

    def _ask(self) -> Future[bytes | None]:
        files, parts = self._known.files, self._parts
        if self._known.process != os.getpid():  # what a parent process was waiting for does not arrive here
            self._known.process = os.getpid()
            self._known.files = files = {parts: done for parts, done in files.items() if done.done()}
        if parts not in files:
            if any(parts[: len(at)] == at and self.name in names for at, names in self._known.complete.items()):
                files[parts] = _done(None)
            else:
                from data_recipes.formats.transfer import fetch

                files[parts] = fetch(str(self))
        return files[parts]


AnyPath = Path | RemotePath


def _done(content: bytes | None) -> Future[bytes | None]:
    future: Future[bytes | None] = Future()
    future.set_result(content)
    return future


class RemoteArray(LazyArray):
    """One zarr array over HTTP(S) or on S3. A slice's chunks are fetched at the same time, each once (`chunk_cache`).

    Args:
        path: its folder.
        documents: file name -> content of its metadata.
    """

    def __init__(self, path: RemotePath, documents: Mapping[str, bytes], shape: tuple[int, ...], dtype: np.dtype):
        self.path, self.shape, self.dtype = path, shape, dtype.newbyteorder("=")
        self._documents = dict(documents)
        self.layout = Layout.of(json.loads(self._documents.get("zarr.json") or self._documents[".zarray"]), str(path))

    def _store(self, fresh: bool = False) -> ChunkStore:
        from data_recipes.formats.chunk_cache import ChunkStore

        return ChunkStore(lambda key: str(self.path / key), self._documents, self.layout, fresh)

    @cached_property
    def _array(self) -> Any:
        import zarr

        try:
            return zarr.open_array(self._store(), mode="r")
        except (ValueError, TypeError, KeyError, LookupError, NotImplementedError) as error:
            raise ValueError(f"{self.path}: a zarr array that cannot be opened ({error})") from error

    def _read(self, box: Box) -> np.ndarray:
        from zarr.core.sync import sync

        whole = tuple(slice(s.start, s.stop) for s in box)
        out = np.empty([s.stop - s.start for s in whole], self.dtype)
        chunk = self._array.chunks
        parts = []
        for part in _cut(whole, self._array.shards or chunk):  # a shard that is wanted whole is one request
            full = all(s.stop - s.start == n for s, n in zip(part, self._array.shards or chunk, strict=True))
            parts += [part] if full else _cut(part, chunk)

        def put(part: Box, values: Any) -> None:
            out[tuple(slice(p.start - s.start, p.stop - s.start) for p, s in zip(part, whole, strict=True))] = values

        for part in sync(_read_parts(self._array.async_array, parts, put)):
            put(part, self._read_anew(part))
        return out[tuple(slice(None, None, s.step) for s in box)]

    def _read_anew(self, part: Box) -> Any:
        """A part, of one chunk or shard, that did not decode: fetched again, as the damage may lie on the way."""
        import zarr

        from data_recipes.formats.transfer import Limits, RemoteError

        limits = Limits.from_environment()
        tries = max(2, limits.tries)
        where, last = str(self.path), Exception()
        for attempt in range(tries):
            if attempt:  # not at once: another part of the same shard may have healed its index
                time.sleep(limits.before(attempt))
            store = self._store(fresh=attempt > 0)
            try:
                return zarr.open_array(store, mode="r")[part]
            except RemoteError:
                raise
            except Exception as error:  # each codec has its own idea of what to raise
                where, last = [where, *store.asked][-1], error
        raise ValueError(
            f"{where}: damaged ({' '.join(str(last).split()) or type(last).__name__}); it arrived so {tries} "
            "times: compare it with the original and upload it again"
        ) from last


async def _read_parts(array: Any, parts: Iterable[Box], put: Callable[[Box, Any], None]) -> list[Box]:
    """Read the parts at the same time; returns those that did not decode, and raises what could not be fetched."""
    import asyncio

    from data_recipes.formats.transfer import RemoteError

    gate = asyncio.Semaphore(CONCURRENT)
    damaged: list[Box] = []
    lost: list[RemoteError] = []

    async def read(part: Box) -> None:
        async with gate:
            if lost:
                return
            try:
                put(part, await array.getitem(part))
            except RemoteError as error:
                lost.append(error)
            except Exception:
                damaged.append(part)

    await asyncio.gather(*map(read, parts))
    if lost:
        raise lost[0]
    return damaged


def _cut(box: Box, steps: Sequence[int]) -> list[Box]:
    """The box along the grid of chunks of these sides."""
    axes = [
        [slice(max(s.start, at), min(s.stop, at + n)) for at in range(s.start // n * n, s.stop, n)]
        for s, n in zip(box, steps, strict=True)
    ]
    return [tuple(part) for part in product(*axes)]

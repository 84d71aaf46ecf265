"""What a zarr array's metadata say of its stored files: which bytes can be right, and whether damage shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CHECKED = ("gzip", "zlib", "bz2", "lzma", "crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3")


class Damaged(ValueError):
    """Bytes that cannot be a chunk's, although the server sent them as such."""


@dataclass(frozen=True)
class Layout:
    """Of one array.

    Attributes:
        sharded: its files hold many chunks and an index.
        index_at_start: where the index lies, otherwise at the end.
        blosc: whether a chunk begins with a blosc header.
        checksum: whether a chunk carries a checksum, so that any changed bit shows when it is decoded.
    """

    sharded: bool
    index_at_start: bool
    blosc: bool
    checksum: bool

    @classmethod
    def of(cls, metadata: Mapping[str, Any], where: str) -> Layout:
        """From the content of .zarray or zarr.json at `where`; ValueError if its codecs are no such list."""
        try:
            return cls._of(metadata)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"{where}: its codecs cannot be understood; damaged? copy it again") from error

    @classmethod
    def _of(cls, metadata: Mapping[str, Any]) -> Layout:
        if "codecs" not in metadata:
            compressor, filters = metadata.get("compressor") or {}, metadata.get("filters") or []
            return cls(False, False, compressor.get("id") == "blosc", any(map(_sums, [compressor, *filters])))
        codecs = metadata["codecs"]
        shard = next((c["configuration"] for c in codecs if c.get("name") == "sharding_indexed"), None)
        at_start = (shard or {}).get("index_location") == "start"
        inner = codecs if shard is None else shard["codecs"]
        return cls(shard is not None, at_start, inner[-1].get("name") == "blosc", any(map(_sums, inner)))

    def check(self, body: bytes | None, span: tuple[int, int | None] | None, gone: bool = False) -> None:
        """Damaged if this span of a file, None for all of it, cannot be right.

        No body is a file that is not there: right for a chunk, unless some of it was read before (`gone`).
        """
        index = self.sharded and span is not None and (span[0] == 0 if self.index_at_start else span[0] < 0)
        if body is None:
            if gone or (span is not None and not index):
                raise Damaged("it was there, and is not any more")
        elif not body:
            raise Damaged("it is empty")
        elif self.blosc and (span is None) != self.sharded and not index:
            # blosc is not told how much it was given: it reads on behind the end of a truncated chunk
            said = int.from_bytes(body[12:16], "little")
            if len(body) < 16 or said != len(body):
                raise Damaged(f"{len(body)} bytes, its blosc header promises {said}")


def _sums(codec: Mapping[str, Any]) -> bool:
    """Whether this codec, as the metadata of zarr v2 or v3 name it, notices any changed bit."""
    name = str(codec.get("id") or codec.get("name")).removeprefix("numcodecs.")
    settings = codec.get("configuration") or codec
    return name in _CHECKED or (name == "zstd" and bool(settings.get("checksum")))

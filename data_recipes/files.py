"""Files that appear whole or not at all, folders found unwritable before the work, not after it; the cache folder."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """Where phantoms, fetched weights and counted costs are kept: $INKZOO_CACHE, or `inkzoo` in the user's cache."""
    if given := os.environ.get("INKZOO_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "inkzoo"


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary name beside `path` to write to; it becomes `path` when the block ends, and goes if it fails.

    What was at `path` before stays until then. The content is on the disk before the name is, so that a crash of the
    machine leaves the old file or the new one.

    Raises:
        OSError: it cannot be written or renamed.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        _to_disk(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _to_disk(path.parent)


def remove_partials(folder: Path) -> None:
    """Remove what a killed process left half-written by `whole_file` in a folder that nobody else writes to."""
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)


def check_writable(folder: str | Path, option: str = "--out") -> None:
    """Make the folder if it is not there; ValueError that names the option if it cannot be written to."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next(parent for parent in (folder, *folder.parents) if parent.exists())
        raise ValueError(f"{option} {folder}: {file} is a file; give a folder") from None
    except OSError as error:
        raise ValueError(f"{option} {folder}: cannot be created: {error.strerror}; choose another folder") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{option} {folder} is not writable; choose another folder")


def check_file(path: str | Path, option: str = "--out") -> None:
    """As `check_writable`, for a file that is to be written: it must be no folder, and its folder writable."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder; name the file to write in it")
    check_writable(path.parent, option)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

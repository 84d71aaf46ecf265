"""What tells that a fragment's data is still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from data_recipes.formats.remote import RemotePath
from data_recipes.fragment import Fragment

_SMALL = 64 * 2**20  # bytes of a file whose content is hashed; of larger ones the size has to do


def data_stamp(fragment: Fragment) -> str:
    """Changes when a fragment is relabelled, masked, described or converted anew; the same on every machine.

    Content of labels, masks and descriptions; name and size of everything else beside them, layers included.
    """
    described = {path for path in _files(fragment.path) if path.suffix in (".json", ".yaml", ".yml")}
    hashed = described | {path for source in fragment.sources.values() for path in _files(source)}
    digest = hashlib.sha256()
    for path in sorted({*_files(fragment.path), *hashed}, key=lambda p: p.as_posix()):
        size = path.stat().st_size if isinstance(path, Path) else len(path.read_bytes())
        digest.update(f"{path.name}:{size};".encode())
        if path in hashed and size <= _SMALL:
            digest.update(path.read_bytes())
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

"""A whole volume in one place: a zarr, here or on a server, or one TIFF of several pages; its planes lie inside it or
beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_recipes.formats import tiff
from data_recipes.formats.companions import (
    KINDS,
    find_companions,
    is_companion,
    open_plane,
    remote_companions,
    stem,
)
from data_recipes.formats.parts import Parts
from data_recipes.formats.remote import AnyPath, RemotePath
from data_recipes.formats.zarr import OURS, child_arrays, is_array, is_zarr, open_zarr

PLANES = "planes"
"""The group inside a converted zarr that holds its masks and labels."""

PARTIAL = ".partial"
"""How the names of what is still being written end; it is never taken for a fragment."""


def volumes_in(folder: Path) -> list[Path]:
    """The zarrs and TIFF stacks right inside a folder that are no masks or labels, nor unfinished, by name."""
    if not folder.is_dir():
        return []
    entries = sorted(p for p in folder.iterdir() if not is_companion(p) and p.suffix != PARTIAL)
    return [p for p in entries if is_zarr(p) or (p.is_file() and p.suffix.lower() in tiff.SUFFIXES)]


def settings_files(path: AnyPath) -> list[AnyPath]:
    """Where a fragment.yaml for the volume at `path` may lie, the closest first."""
    root = _root(path)
    inside = [root / "fragment.yaml"] if root.is_dir() else []
    files = [*inside, root.parent / f"{stem(root)}.fragment.yaml", root.parent / "fragment.yaml"]
    for file in files:
        if isinstance(file, RemotePath):
            file.parent.look(file.name)
    return files


def open_zarr_fragment(path: AnyPath, level: int | None) -> Parts:
    """The zarr at `path` (a group, one of its levels, or a plain array) with the planes in it or beside it.

    Raises:
        ValueError: as `open_zarr`, or a plane that cannot be read.
    """
    source = open_zarr(path, level)
    name, notes = stem(source.root), []
    sources: dict[str, AnyPath] = {}
    if isinstance(source.root, RemotePath):
        stated = (source.attributes.get(OURS) or {}).get("planes") or ()
        sources, notes = _remote_planes(source.root, name, stated)
    else:
        sources.update({kind: source.root / PLANES / kind for kind in child_arrays(source.root / PLANES)})
        if not sources.keys() >= KINDS.keys():
            found, notes = _beside(source.root, name)
            sources = found | sources
    coarse = source.level or None
    planes = {}
    for kind, file in sources.items():
        try:
            planes[kind] = open_plane(file, coarse if is_zarr(file) and file.parent.name != PLANES else None)
        except ValueError:
            if not coarse:
                raise
            planes[kind] = open_plane(file)  # the label has no such level: the finest, which is then left aside
    shape = source.full_shape[-2:]
    described = source.version + (f", level {source.level}" if source.level else "")
    return Parts(
        format=described,
        name=name,
        volume=source.array,
        planes=planes,
        sources=sources,
        voxel_um=source.voxel_um,
        settings=dict((source.attributes.get(OURS) or {}).get("fragment") or {}),
        settings_at=settings_files(source.root),
        full_shape=(shape[0], shape[1]) if coarse else None,
        notes=[*_origin(source.attributes), *source.notes, *notes],
    )


def converted_from(path: AnyPath) -> str | None:
    """The path that the zarr at `path` was converted from; None if it is no conversion."""
    if not is_zarr(path):
        return None
    return ((open_zarr(path).attributes.get(OURS) or {}).get("source") or {}).get("source")


def _origin(attributes: dict[str, Any]) -> list[str]:
    """Where a converted zarr came from, and how its intensities were stored."""
    ours = attributes.get(OURS) or {}
    origin = (ours.get("source") or {}).get("format")
    return [f"converted from: {origin}; intensities: {ours.get('intensities')}"] if origin else []


def open_tiff_fragment(path: Path) -> Parts:
    """The TIFF stack at `path` with the planes beside it. Errors as `open_tiff`."""
    if path.suffix.lower() not in tiff.SUFFIXES:
        raise ValueError(f"{path}: a single file of this kind is no fragment; expected a TIFF of several pages")
    volume, voxel_um = tiff.open_tiff(path)
    if volume.ndim != 3:
        told = "×".join(map(str, volume.shape))
        raise ValueError(
            f"{path}: one plane of {told} px; expected several pages (Z×H×W), or name the folder it lies in"
        )
    name = stem(path)
    sources, notes = _beside(path, name)
    planes = {kind: open_plane(file) for kind, file in sources.items()}
    return Parts(
        format=f"TIFF of {volume.shape[0]} pages",
        name=name,
        volume=volume,
        planes=planes,
        sources=sources,
        voxel_um=voxel_um,
        settings_at=settings_files(path),
        notes=notes,
    )


def _beside(root: Path, name: str) -> tuple[dict[str, AnyPath], list[str]]:
    folder = root.parent
    alone = len(volumes_in(folder)) == 1
    return find_companions(name, own=[folder] if alone else [], beside=[] if alone else [folder])


def _remote_planes(root: RemotePath, name: str, stated: Sequence[str]) -> tuple[dict[str, AnyPath], list[str]]:
    """Planes inside or beside a remote zarr, and notes; all that may be there is asked for at the same time.

    `stated`: what it says it holds; of conversions that say nothing, the usual ones are asked for.
    """
    inside, kinds = root / PLANES, tuple(dict.fromkeys((*KINDS, *stated)))
    if (root / "zarr.json").is_file():  # only zarr v3 comes from our own conversion
        for kind in kinds:
            (inside / kind).look("zarr.json")
    beside = remote_companions(root, name)
    ours = [kind for kind in kinds if (root / "zarr.json").is_file() and (inside / kind / "zarr.json").is_file()]
    sources: dict[str, AnyPath] = {**beside, **{kind: inside / kind for kind in ours}}
    lacking = [kind for kind in ("mask", "inklabels") if kind not in sources]
    notes = root.notes()
    if lacking:
        told = " and ".join(f"{name}_{kind}.zarr" for kind in lacking)
        notes.append(f"a server's folders cannot be listed: {told} beside it were looked for, and are not there")
    return sources, notes


def _root(path: AnyPath) -> AnyPath:
    return path.parent if is_array(path) and is_zarr(path.parent) else path

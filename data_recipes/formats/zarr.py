"""OME-Zarr 0.4 (zarr v2) and 0.5 (zarr v3), and plain zarr arrays of both, any level; here or on a server.

Metadata are read as the JSON that they are, so that opening costs no import of zarr; the array itself is opened on
the first slice, inside the process that slices.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_recipes.formats.arrays import LazyArray, Squeezed
from data_recipes.formats.layout import Layout
from data_recipes.formats.remote import AnyPath, RemoteArray, RemotePath
from data_recipes.formats.shards import Shards

MARKERS = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
OURS = "inkzoo"
"""The attribute under which `convert` keeps what a fragment.yaml would say, and where the data came from."""

_MICROMETRES = {
    "angstrom": 1e-4, "nanometer": 1e-3, "nanometre": 1e-3, "nm": 1e-3, "micrometer": 1.0, "micrometre": 1.0,
    "um": 1.0, "µm": 1.0, "micron": 1.0, "millimeter": 1e3, "millimetre": 1e3, "mm": 1e3, "centimeter": 1e4,
    "meter": 1e6, "metre": 1e6,
}  # fmt: skip


def is_zarr(path: AnyPath) -> bool:
    """Whether a zarr group or array lies at this path."""
    return path.is_dir() and any((path / marker).is_file() for marker in MARKERS)


def is_array(path: AnyPath) -> bool:
    """Whether a zarr array, not a group, lies at this path."""
    return is_zarr(path) and _metadata(path)["kind"] == "array"


def find_remote(url: str) -> RemotePath:
    """The zarr at a URL of http, https or s3, its metadata read.

    Raises:
        FileNotFoundError: no zarr there.
        PermissionError, OSError: the server refuses access, or does not answer.
        ValueError: not a URL that can be kept, or damaged metadata.
    """
    path = RemotePath(url)
    if not (path / "zarr.json").is_file():
        path.look(*MARKERS, ".zmetadata")
        if not is_zarr(path):
            if path.refused():
                (path / "zarr.json").read_bytes()  # says what the server said
            raise FileNotFoundError(
                f"{path}: no zarr there ({', '.join(MARKERS)} were asked for); over http(s) and s3 a zarr is read, "
                "or one level of it: name its own URL, not the one of a folder around it"
            )
    _take_consolidated(path)
    if is_array(path):  # x.zarr/1
        _take_consolidated(path.parent)
    return path


def _take_consolidated(group: RemotePath) -> None:
    """What a group says of all that is in it need not be asked for."""
    documents: dict[str, bytes] = {}
    if (group / "zarr.json").is_file():
        inside = (_load(group / "zarr.json").get("consolidated_metadata") or {}).get("metadata") or {}
        documents = {f"{key}/zarr.json": json.dumps(value).encode() for key, value in inside.items()}
    elif (group / ".zgroup").is_file() and (group / ".zmetadata").is_file():
        inside = _load(group / ".zmetadata").get("metadata") or {}
        documents = {key: json.dumps(value).encode() for key, value in inside.items()}
    if documents:
        group.state(documents, MARKERS)


class ZarrArray(LazyArray):
    """One zarr array on disk, opened on the first slice."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype):
        self.path, self.shape, self.dtype = path, shape, dtype.newbyteorder("=")

    def __getstate__(self) -> dict[str, Any]:
        """A process that is sent this opens the files itself."""
        return {"path": self.path, "shape": self.shape, "dtype": self.dtype}

    @cached_property
    def _array(self) -> Any:
        import zarr

        return zarr.open_array(self.path, mode="r")

    @cached_property
    def _shards(self) -> Shards | None:
        stated = self.path / "zarr.json"
        return Shards.of(self.path, _load(stated)) if stated.is_file() else None

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        whole = tuple(slice(s.start, s.stop) for s in box)
        try:
            out = self._shards.read(whole) if self._shards else np.asarray(self._array[whole])
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{self.path}: cannot be decoded ({error}); damaged? copy it again") from error
        return np.asarray(out[tuple(slice(None, None, s.step) for s in box)], self.dtype)


@dataclass(frozen=True)
class ZarrSource:
    """One array of a zarr, without axes of length one."""

    root: AnyPath
    array: LazyArray
    level: int | None
    voxel_um: float | None
    full_shape: tuple[int, ...]
    attributes: dict[str, Any]
    version: str
    notes: tuple[str, ...] = ()


def open_zarr(path: AnyPath, level: int | None = None) -> ZarrSource:
    """The array at `path`, or the given level (default: the finest) of the group at `path`.

    Raises:
        ValueError: no array there, no such level, or a dtype that is no plain number.
    """
    meta = _metadata(path)
    root, root_meta, inside = path, meta, ""
    if meta["kind"] == "array" and is_zarr(path.parent):  # x.zarr/1: the group above knows the scale
        above = _metadata(path.parent)
        if above["kind"] == "group":
            root, root_meta, inside = path.parent, above, path.name
    datasets = _datasets(root_meta["attributes"])
    if root_meta["kind"] == "group" and not inside:
        inside, level = _choose(root, datasets, level)
    elif inside:
        level = next((i for i, d in enumerate(datasets) if d["path"].strip("/") == inside), None)
    elif level:
        raise ValueError(f"{path}: level {level} was asked for, but this is a plain array without levels")
    array = _array(root / inside if inside else root)
    finest = _array(root / datasets[0]["path"]) if level and datasets else array
    return ZarrSource(
        root=root,
        array=array,
        level=level,
        voxel_um=_voxel_um(root_meta["attributes"], level),
        full_shape=finest.shape,
        attributes=root_meta["attributes"],
        version=("OME-Zarr " + _ome_version(root_meta["attributes"]) if datasets else "zarr")
        + f" (v{root_meta['version']})",
        notes=_unchecked(root / inside if inside else root),
    )


def child_arrays(path: AnyPath, expected: Sequence[str] = ()) -> list[str]:
    """Names of the arrays right inside the group at `path`; on a server those of the expected ones that are there."""
    if not path.is_dir():
        return []
    if isinstance(path, RemotePath):
        inside = [name for name in expected if is_zarr(path / name)]
    else:
        inside = sorted(child.name for child in path.iterdir() if is_zarr(child))
    return [name for name in inside if _metadata(path / name)["kind"] == "array"]


def _choose(root: AnyPath, datasets: list[dict], level: int | None) -> tuple[str, int | None]:
    if datasets:
        at = level or 0
        if at >= len(datasets):
            raise ValueError(f"{root}: level {at} was asked for; it has levels 0 to {len(datasets) - 1}")
        return datasets[at]["path"].strip("/"), at
    wanted = str(level or 0)
    arrays = child_arrays(root, [wanted])
    if wanted in arrays:
        return wanted, level or 0
    if len(arrays) == 1 and not level:
        return arrays[0], None
    told = f"holds the arrays {', '.join(arrays)}; name one: {root / arrays[0]}" if arrays else "holds no array"
    if isinstance(root, RemotePath):
        told = f"says nothing of levels and holds no array named {wanted}; name the array's own URL: {root / '…'}"
    raise ValueError(f"{root}: a zarr group that {told}")


def _load(file: AnyPath) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not readable as JSON ({error}); damaged? copy it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file}: not a zarr's metadata; damaged? copy it again")
    return found


def _metadata(path: AnyPath) -> dict[str, Any]:
    if (path / "zarr.json").is_file():
        meta = _load(path / "zarr.json")
        kind, version, dtype = meta.get("node_type"), 3, meta.get("data_type")
        attributes = meta.get("attributes") or {}
    else:
        array = (path / ".zarray").is_file()
        meta = _load(path / ".zarray") if array else {}
        kind, version, dtype = "array" if array else "group", 2, meta.get("dtype")
        attributes = _load(path / ".zattrs") if (path / ".zattrs").is_file() else {}
    return {"kind": kind, "version": version, "dtype": dtype, "shape": meta.get("shape"), "attributes": attributes}


def _array(path: AnyPath) -> LazyArray:
    meta = _metadata(path) if is_zarr(path) else {"kind": None}
    if meta["kind"] != "array":
        raise ValueError(f"{path}: no zarr array there; is the copy complete?")
    try:
        dtype = np.dtype(meta["dtype"])
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "buif":
        raise ValueError(f"{path}: unknown dtype {meta['dtype']}; expected uint8 or uint16")
    shape = tuple(meta["shape"] or ())
    if isinstance(path, RemotePath):
        documents = {file.name: file.read_bytes() for file in path.files() if file.name in MARKERS}
        array = RemoteArray(path, documents, shape, dtype)
    else:
        array = ZarrArray(path, shape, dtype)
    drop = tuple(0 if side == 1 and axis < len(array.shape) - 2 else None for axis, side in enumerate(array.shape))
    return Squeezed(array, drop) if any(at is not None for at in drop) else array


def _unchecked(path: AnyPath) -> tuple[str, ...]:
    """What to say of a remote array whose chunks carry no checksum."""
    if not isinstance(path, RemotePath):
        return ()
    v3 = (path / "zarr.json").is_file()
    layout = Layout.of(_load(path / "zarr.json" if v3 else path / ".zarray"), str(path))
    told = "its chunks carry no checksum: what is changed on the way is noticed only where it does not decode any more"
    return () if layout.checksum else (told,)


def _multiscale(attributes: dict[str, Any]) -> dict[str, Any]:
    found = (attributes.get("ome") or attributes).get("multiscales")
    return found[0] if isinstance(found, list) and found and isinstance(found[0], dict) else {}


def _datasets(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [d for d in _multiscale(attributes).get("datasets") or [] if isinstance(d.get("path"), str)]


def _ome_version(attributes: dict[str, Any]) -> str:
    stated = (attributes.get("ome") or {}).get("version") or _multiscale(attributes).get("version")
    return str(stated or "of unstated version")


def _voxel_um(attributes: dict[str, Any], level: int | None) -> float | None:
    """In-plane voxel size: the last axis's scale, which counts only where a unit of length stands beside it."""
    axes = _multiscale(attributes).get("axes") or []
    unit = axes[-1].get("unit") if axes and isinstance(axes[-1], dict) else None
    datasets = _datasets(attributes)
    if unit not in _MICROMETRES or level is None or level >= len(datasets):
        return None
    scale = 1.0
    for holder in (datasets[level], _multiscale(attributes)):
        for transform in holder.get("coordinateTransformations") or []:
            if transform.get("type") == "scale" and isinstance(transform.get("scale"), list):
                scale *= float(transform["scale"][-1])
    return scale * _MICROMETRES[unit]

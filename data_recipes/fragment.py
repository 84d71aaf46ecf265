"""A fragment on disk or a server: a volume of layers, the papyrus mask, the ink label, read only where sliced."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np

from data_recipes.formats.arrays import FullPlane, LabelPlane, LazyArray, MaskPlane
from data_recipes.formats.parts import Parts
from data_recipes.formats.remote import AnyPath, RemotePath, is_url

DTYPES = (np.dtype(np.uint8), np.dtype(np.uint16))


@dataclass(eq=False)
class Fragment:
    """One fragment, opened; nothing of it is held in memory. Pickles as its path and is reopened where it arrives.

    Attributes:
        name: unique among the fragments of a run.
        path: what it was opened from; a `RemotePath` for a URL.
        format: in words.
        volume: (Z, H, W) uint8 or uint16, layer 0 first, sliced lazily; None for labels alone.
        papyrus: (H, W) bool; True everywhere if no mask was found.
        label: (H, W) uint8 class index, ink is label > 0; None if no label was found.
        other_label: (H, W) as `label`: another revision of it, which nothing is trained on; None if none is stated.
        supervised: (H, W) bool, where the label counts; True everywhere if not stated.
        validation: (H, W) bool, held out by the data's maker, so that no training tile touches it; or None.
        voxel_um: µm, or None where unknown.
        direction: `forward`, or `reverse` where the layers run from the papyrus's back to its front.
        center_layer: index of the layer on the surface, the middle one where unknown.
        to_uint8: how stored 8 bits came from 16 (`high_byte`, `clip:LO:HI`, `none` if they never were), None where
            unknown or stored as 16.
        purpose: `test` or `development` for a phantom, also after its conversion; None for anything else.
        unknown: which of voxel_um, direction, center_layer nothing was found on.
        sources: which file each plane came from.
        label_values: stored value -> class index, where `fragment.yaml` gives it.
        notes: what a person should know.
    """

    name: str
    path: AnyPath
    format: str
    volume: LazyArray | None
    papyrus: LazyArray
    label: LazyArray | None
    supervised: LazyArray
    validation: LazyArray | None
    voxel_um: float | None
    direction: Literal["forward", "reverse"]
    center_layer: int
    to_uint8: str | None = None
    purpose: str | None = None
    other_label: LazyArray | None = None
    unknown: tuple[str, ...] = ()
    sources: dict[str, AnyPath] = field(default_factory=dict)
    label_values: dict[int, int] | None = None
    notes: list[str] = field(default_factory=list)
    _warned: bool = field(default=False, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) in px."""
        height, width = self.papyrus.shape
        return height, width

    @property
    def depth(self) -> int:
        """Number of layers, 0 for labels alone."""
        return 0 if self.volume is None else self.volume.shape[0]

    def read(self, y0: int, y1: int, x0: int, x1: int, z0: int, z1: int) -> np.ndarray:
        """(z1-z0, y1-y0, x1-x0) in the stored dtype; what lies outside the volume repeats its nearest voxel.

        Warns once a fragment when layers outside the volume are asked for.

        Raises:
            ValueError: no volume, or an empty box.
        """
        if self.volume is None:
            raise ValueError(f"{self.name}: labels without layers ({self.path}); a volume is needed here")
        if z1 <= z0 or y1 <= y0 or x1 <= x0:
            raise ValueError(f"{self.name}: an empty box was asked for: z {z0}:{z1}, y {y0}:{y1}, x {x0}:{x1}")
        if (z0 < 0 or z1 > self.depth) and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.name}: layers {z0}:{z1} were asked for, it has 0:{self.depth}; the outermost layer is repeated",
                stacklevel=2,
            )
        box, pad = [], []
        for low, high, size in zip((z0, y0, x0), (z1, y1, x1), self.volume.shape, strict=True):
            inner_low, inner_high = min(max(low, 0), size - 1), max(min(high, size), 1)
            inner_high = max(inner_high, inner_low + 1)
            box.append(slice(inner_low, inner_high))
            before = min(max(inner_low - low, 0), high - low - 1)
            pad.append((before, max(high - low - before - (inner_high - inner_low), 0)))
        out = self.volume[tuple(box)]
        return np.pad(out, pad, mode="edge") if any(map(any, pad)) else out

    def __reduce__(self):
        return _reopen, (str(self.path), self.name)


def _reopen(path: str, name: str) -> Fragment:
    return open_fragment(path, name=name)


def open_fragment(path: str | Path, *, name: str | None = None) -> Fragment:
    """Open the fragment at `path`, in whatever format it is; only headers are read.

    Args:
        path: a folder (Kaggle's or a scroll segment's layout, labels alone, a zarr or one level of it), a TIFF of
            several pages, the URL of a zarr or one level of it (`https://…`, `s3://bucket/…`; how it is read is set
            as `formats/transfer.py` says), or `phantom:<ink>:<seed>[:<size>]` for the synthetic one.
        name: another name than the files give it.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: not understood, damaged, or parts that do not fit one another; the message says what and where.
        OSError: a server that does not answer, or refuses access (PermissionError).
    """
    return _open(_resolve(path), name)


def _open(where: AnyPath, name: str | None = None) -> Fragment:
    return _build(where, _open_parts(where), name)


def open_fragments(paths: Sequence[str | Path]) -> dict[str, Fragment]:
    """Name -> fragment for all paths, in order; a folder of fragments (Kaggle's `train/`) stands for all in it.

    Raises:
        FileNotFoundError, ValueError: as `open_fragment`, or two fragments of one name, or a fragment and its
            conversion, whatever they are called, or no fragment at all.
    """
    from data_recipes.origin import refuse_conversions

    places = (_resolve(path) for path in paths)
    opened = [_open(one) for where in places for one in _expand(where) or [where]]
    if not opened:
        raise ValueError("no fragment was named; give one or more paths")
    refuse_conversions(opened)
    found: dict[str, Fragment] = {}
    for fragment in opened:
        first = found.setdefault(fragment.name, fragment)
        if first is not fragment:
            raise ValueError(
                f"two fragments are named {first.name}: {first.path} and {fragment.path}; "
                "give one of them another name in a fragment.yaml beside it (`name: …`)"
            )
    return found


def absolute_data(items: Iterable[str | Path]) -> list[str]:
    """Paths made absolute, `~` expanded, so that they mean the same in another process; `phantom:…` and URLs stay."""
    return [text if text.startswith("phantom:") or is_url(text) else _absolute(text) for text in map(str, items)]


def refuse_test_phantoms(fragments: Mapping[str, Fragment], names: Iterable[str]) -> None:
    """Raise ValueError if one of the named fragments, which are to be trained on, is a phantom for testing."""
    for name in names:
        if fragments[name].purpose == "test":
            from data_recipes.phantom import TEST_SEEDS

            raise ValueError(
                f"{name} is a test phantom and would be trained on; train on phantoms of seeds below {TEST_SEEDS[0]}"
            )


def _resolve(path: str | Path) -> AnyPath:
    if is_url(path):
        from data_recipes.formats.zarr import find_remote

        return find_remote(str(path))
    if str(path).startswith("phantom:"):
        from data_recipes.phantom import phantom_fragment

        return Path(phantom_fragment(str(path)))
    where = Path(_absolute(path))
    if not where.exists():
        near = get_close_matches(where.name, [p.name for p in where.parent.iterdir()]) if where.parent.is_dir() else []
        hint = f"; nearest there: {', '.join(near)}" if near else ""
        raise FileNotFoundError(f"{path}: no such path{hint}")
    return where


def _absolute(path: str | Path) -> str:
    return os.path.abspath(Path(path).expanduser())


def _open_parts(path: AnyPath) -> Parts:
    from data_recipes.formats import kaggle, segment, stack
    from data_recipes.formats.zarr import is_zarr

    if path.suffix == stack.PARTIAL:
        raise ValueError(f"{path}: an unfinished conversion; repeat the command that began it, or remove it")
    if isinstance(path, RemotePath) or is_zarr(path):
        return stack.open_zarr_fragment(path, _level(path))
    if path.is_file():
        return stack.open_tiff_fragment(path)
    if kaggle.matches(path):
        return kaggle.open_kaggle(path)
    if segment.matches(path):
        return segment.open_segment(path)
    volumes = stack.volumes_in(path)
    inside = [p.name for p in _expand(path)]
    if len(volumes) == 1 and not inside:
        return _open_parts(volumes[0])
    if not inside and segment.has_planes(path):
        return kaggle.open_labels(path)
    if inside:
        told = ", ".join(inside[:6]) + (" …" if len(inside) > 6 else "")
        raise ValueError(f"{path}: a folder of {len(inside)} fragments ({told}); name one of them")
    if not any(path.iterdir()):
        raise ValueError(f"{path}: an empty folder; {_UNDERSTOOD}")
    raise ValueError(f"{path}: no fragment was recognised here; {_UNDERSTOOD}")


_UNDERSTOOD = (
    "expected surface_volume/ or layers/ with 00.tif …, a .zarr, a TIFF of several pages, or mask.png and inklabels.png"
)


def _level(path: AnyPath) -> int | None:
    from data_recipes.formats import stack

    return _settings(stack.settings_files(path)).level


def _expand(path: AnyPath, depth: int = 2) -> list[Path]:
    """The fragments inside a folder of fragments, or of such folders; empty if `path` is a fragment itself."""
    from data_recipes.formats import kaggle, segment, stack
    from data_recipes.formats.companions import LABEL_FOLDERS
    from data_recipes.formats.zarr import is_zarr

    if not isinstance(path, Path) or not path.is_dir() or is_zarr(path):
        return []
    if kaggle.matches(path) or segment.matches(path):
        return []
    volumes = stack.volumes_in(path)
    folders = [p for p in path.iterdir() if p.is_dir() and not is_zarr(p) and p.suffix != stack.PARTIAL]
    folders = sorted((p for p in folders if p.name not in LABEL_FOLDERS), key=_natural)
    if volumes:  # beside a volume, a folder of planes alone belongs to it
        layered = [p for p in folders if _has_layers(p)]
        return sorted([*volumes, *layered], key=_natural) if layered or len(volumes) > 1 else []
    return [one for p in folders for one in ([p] if _is_fragment(p) else _expand(p, depth - 1) if depth > 1 else [])]


def _is_fragment(path: Path) -> bool:
    from data_recipes.formats import segment

    if _has_layers(path):
        return True
    try:
        return segment.has_planes(path)
    except ValueError:  # planes of several fragments: a folder of labels, not a fragment
        return False


def _has_layers(path: Path) -> bool:
    """Whether this folder is one fragment with a volume."""
    from data_recipes.formats import kaggle, segment, stack
    from data_recipes.formats.zarr import is_zarr

    if is_zarr(path) or kaggle.matches(path) or segment.matches(path):
        return True
    return len(stack.volumes_in(path)) == 1 and not _expand(path, 1)


def _natural(path: Path) -> tuple[int, int, str]:
    name = path.name.removesuffix(path.suffix)
    return (0, int(name), path.name) if name.isdecimal() else (1, 0, path.name)


def _settings(files: Sequence[AnyPath]):
    from data_recipes.settings import load_settings

    return load_settings(files)


def _build(path: AnyPath, parts: Parts, name: str | None) -> Fragment:
    """Check that the parts fit one another, fill in what is not there, and say so."""
    from data_recipes.settings import add_other_label, merge, phantom_purpose

    settings = merge(_settings(parts.settings_at), parts.settings)
    add_other_label(parts)
    notes, unknown = list(parts.notes), []
    volume = parts.volume
    if volume is not None:
        if volume.ndim != 3:
            raise ValueError(f"{path}: has shape {_size(volume.shape)}, expected a volume Z×H×W")
        if volume.dtype not in DTYPES:
            raise ValueError(f"{path}: unknown dtype {volume.dtype}; expected uint8 or uint16")
    shape = _plane_shape(path, parts, notes)
    planes = parts.planes
    papyrus: LazyArray = FullPlane(shape)
    if "mask" in planes:
        papyrus = MaskPlane(planes["mask"])
    else:
        notes.append("no papyrus mask: all of it counts as papyrus")
    labels = {
        kind: LabelPlane(planes[kind], settings.label_values, str(parts.sources.get(kind, path)))
        for kind in ("inklabels", "other_label")
        if kind in planes
    }
    label = labels.get("inklabels")
    if label is None:
        notes.append("no ink label")
    supervised = MaskPlane(planes["supervision_mask"]) if "supervision_mask" in planes else FullPlane(shape)
    if label is not None and "supervision_mask" not in planes:
        notes.append("no supervision mask: the label counts everywhere")
    depth = 0 if volume is None else volume.shape[0]
    voxel_um = settings.voxel_um or parts.voxel_um
    center = settings.center_layer
    if voxel_um is None:
        unknown.append("voxel_um")
        notes.append("voxel size unknown: state voxel_um in a fragment.yaml beside the data")
    if volume is not None and settings.direction is None:
        unknown.append("direction")
        notes.append("direction unknown, treated as forward: state direction in a fragment.yaml beside the data")
    if volume is not None and center is None:
        unknown.append("center_layer")
        notes.append(
            f"centre layer unknown, taken as the middle one, {depth // 2}: state center_layer in fragment.yaml"
        )
    purpose = phantom_purpose(parts.settings_at) or settings.purpose
    if volume is not None and volume.dtype == np.uint8 and settings.to_uint8 is None and purpose is None:
        notes.append("how the 8 bits came from 16 is unknown: state to_uint8 in a fragment.yaml beside the data")
    if center is not None and depth and center >= depth:
        raise ValueError(f"{path}: center_layer {center} is stated, the volume has layers 0 to {depth - 1}")
    return Fragment(
        name=name or settings.name or parts.name,
        path=path,
        format=parts.format,
        volume=volume,
        papyrus=papyrus,
        label=label,
        supervised=supervised,
        validation=MaskPlane(planes["validation_mask"]) if "validation_mask" in planes else None,
        voxel_um=voxel_um,
        direction=settings.direction or "forward",
        center_layer=depth // 2 if center is None else center,
        to_uint8=settings.to_uint8,
        purpose=purpose,
        other_label=labels.get("other_label"),
        unknown=tuple(unknown),
        sources=parts.sources,
        label_values=settings.label_values,
        notes=notes,
    )


def _plane_shape(path: AnyPath, parts: Parts, notes: list[str]) -> tuple[int, int]:
    """(H, W) that the volume and all planes share."""
    if parts.volume is not None:
        whose, shape = "the layers are", parts.volume.shape[1:]
    elif parts.planes:
        first = next(iter(parts.planes))
        whose, shape = f"its {first} is", parts.planes[first].shape
    else:
        raise ValueError(f"{path}: neither layers nor labels")
    for kind, plane in list(parts.planes.items()):
        if plane.shape == shape:
            continue
        if plane.shape == parts.full_shape:
            notes.append(
                f"{kind}: {parts.sources[kind].name} is at the finest level only, so it is not used at this one"
            )
            del parts.planes[kind], parts.sources[kind]
            continue
        raise ValueError(
            f"{parts.sources[kind]}: is {_size(plane.shape)} px, {whose} {_size(shape)} px; expected the same"
        )
    return shape[0], shape[1]


def _size(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))

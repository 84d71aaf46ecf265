"""The planes that belong to a volume: mask, ink label, supervision and validation masks, under all their names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from data_recipes.formats import image, tiff
from data_recipes.formats.arrays import LazyArray, Squeezed
from data_recipes.formats.remote import AnyPath, RemotePath
from data_recipes.formats.zarr import is_zarr, open_zarr

KINDS: dict[str, tuple[str, ...]] = {
    "inklabels": ("inklabels", "inklabel", "ink_labels", "ink_label", "labels", "label"),
    "mask": ("mask", "papyrus_mask"),
    "supervision_mask": ("supervision_mask", "supervised_mask", "supervision"),
    "validation_mask": ("validation_mask", "val_mask", "validation"),
}
"""Kind -> its names, as in `<id>_<name>.png` or plainly `<name>.png`."""

LABEL_FOLDERS = ("labels", "label", "inklabels", "inklabel", "ink_labels", "masks", "mask", "supervision_masks")
SUFFIXES = (".zarr", *tiff.SUFFIXES, *image.SUFFIXES)
"""In order of preference where one plane lies there in several."""

_ALL_NAMES = tuple(name for names in KINDS.values() for name in names)


def stem(path: AnyPath) -> str:
    """File name without its suffix, and without the `.ome` of `x.ome.tif`."""
    name = path.name[: -len(path.suffix)] if path.suffix.lower() in SUFFIXES else path.name
    return name[:-4] if name.lower().endswith(".ome") else name


def is_companion(path: Path) -> bool:
    """Whether the name says that this is a mask or label rather than a volume."""
    low = stem(path).lower()
    return low in (*_ALL_NAMES, "ir") or any(low.endswith(f"_{name}") for name in _ALL_NAMES)


def find_companions(
    name: str, *, own: Iterable[Path] = (), beside: Iterable[Path] = ()
) -> tuple[dict[str, AnyPath], list[str]]:
    """Kind -> path, and notes on what was left aside.

    Args:
        name: the fragment's, as in `<name>_mask.png`.
        own: folders that hold this fragment alone: plain names, and the one `*_mask.png` there, count too.
        beside: folders shared with other fragments: only names that carry `name` count.
    """
    found: dict[str, AnyPath] = {}
    notes: list[str] = []
    own_listings = [_listing(f) for folder in own for f in _with_label_folders(folder)]
    listings = own_listings + [_listing(f) for folder in beside for f in _with_label_folders(folder)]
    for kind, words in KINDS.items():
        hits = [path for w in words for listing in listings for path in listing.get(f"{name}_{w}".lower(), [])]
        hits = hits or [path for w in words for listing in own_listings for path in listing.get(w, [])]
        hits = hits or [p for folder in (*own, *beside) for p in _in_folder_of_kind(folder, words, name)]
        if not hits:
            strays = _strays(kind, own_listings)
            if len({stem(p) for p in strays}) > 1:
                told = ", ".join(sorted(p.name for p in strays))
                raise ValueError(f"{strays[0].parent}: {told}: which one belongs to {name}? name it {name}_{words[0]}")
            hits = strays
        if hits:
            hits = sorted(dict.fromkeys(hits), key=lambda p: SUFFIXES.index(p.suffix.lower()) if p.suffix else 0)
            found[kind] = hits[0]
            notes += [f"{kind}: {hits[0].name} is used, {other} is not" for other in hits[1:]]
    return found, notes


def remote_companions(root: RemotePath, name: str) -> dict[str, RemotePath]:
    """Kind -> path of the zarrs beside a remote one: `<name>_mask.zarr`, and so on by the first name of each kind."""
    places = {kind: root.parent / f"{name}_{words[0]}.zarr" for kind, words in KINDS.items()}
    markers = ("zarr.json", ".zarray", ".zgroup")
    for place in places.values():
        place.look(*markers)
    return {kind: place for kind, place in places.items() if any((place / marker).is_file() for marker in markers)}


def open_plane(path: AnyPath, level: int | None = None) -> LazyArray:
    """(H, W) stored values of a mask or label; of a 3D zarr the middle plane, of a colour image the brightest sample.

    Raises:
        ValueError: not readable, or not one plane.
    """
    if is_zarr(path):
        source = open_zarr(path, level)
        array = source.array
        if array.ndim == 3:
            array = Squeezed(array, (array.shape[0] // 2, None, None))
    elif isinstance(path, RemotePath):
        raise ValueError(f"{path}: not a zarr; over http(s) and s3 masks and labels are read from zarrs")
    elif path.suffix.lower() in tiff.SUFFIXES:
        array, _ = tiff.open_tiff(path)
    elif path.suffix.lower() in image.SUFFIXES:
        array = image.open_image(path)
    else:
        raise ValueError(f"{path}: not a mask or label; expected one of {', '.join(SUFFIXES)}")
    if array.ndim == 3 and array.shape[2] in (2, 3, 4):
        array = image.BrightestSample(array)
    if array.ndim != 2:
        raise ValueError(f"{path}: has shape {'×'.join(map(str, array.shape))}, expected one plane H×W")
    return array


def _with_label_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [folder, *(folder / sub for sub in LABEL_FOLDERS if (folder / sub).is_dir() and not is_zarr(folder / sub))]


def _strays(kind: str, listings: list[dict[str, list[Path]]]) -> list[Path]:
    """`*_mask.png` in the fragment's own folder: it carries another name, perhaps since the folder was renamed."""
    strays = [p for listing in listings for s, paths in listing.items() if s.endswith(f"_{kind}") for p in paths]
    others = tuple(other for other in KINDS if other != kind and other.endswith(f"_{kind}"))
    return [p for p in strays if not stem(p).lower().endswith(others)]


def _in_folder_of_kind(folder: Path, words: tuple[str, ...], name: str) -> list[Path]:
    """`inklabels/<name>.png`: the folder says what it is."""
    subs = [folder / s for w in words for s in (w, w + "s") if (folder / s).is_dir() and not is_zarr(folder / s)]
    return [path for sub in dict.fromkeys(subs) for path in _listing(sub).get(name.lower(), [])]


def _listing(folder: Path) -> dict[str, list[Path]]:
    out: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            out.setdefault(stem(path).lower(), []).append(path)
    return out

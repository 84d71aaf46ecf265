"""A folder with one image a layer: 00.tif … 64.tif, in any zero padding, as TIFF, PNG or JPEG."""

from __future__ import annotations

import re
from pathlib import Path

from data_recipes.formats import image, tiff
from data_recipes.formats.arrays import LazyArray, SpilledArray, StackedLayers

_NUMBERED = re.compile(r"^(?:layers?|slices?|z)?[_-]?0*(\d+)$", re.IGNORECASE)


def layer_files(folder: Path) -> dict[int, Path]:
    """Layer number -> file, in order.

    Raises:
        ValueError: one number twice.
    """
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _NUMBERED.match(path.stem)
        if match is None or path.suffix.lower() not in (*tiff.SUFFIXES, *image.SUFFIXES) or not path.is_file():
            continue
        number = int(match[1])
        if number in found:
            raise ValueError(f"{folder}: layer {number} lies there twice: {found[number].name} and {path.name}")
        found[number] = path
    return dict(sorted(found.items()))


def open_layers(folder: Path) -> tuple[LazyArray, float | None, str, list[str]]:
    """(Z, H, W) of the layers in a folder, the voxel size where TIFF tags state it, the kind of file, and notes.

    Raises:
        ValueError: no layer, a missing one, layers of several sizes or dtypes, one that is damaged.
    """
    files = layer_files(folder)
    if not files:
        raise ValueError(f"{folder}: no layers; expected numbered images such as 00.tif, 01.tif …")
    numbers = list(files)
    gaps = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers))
    if gaps:
        digits = len(files[numbers[-1]].stem)
        told = ", ".join(str(n).zfill(digits) for n in gaps[:8]) + (" …" if len(gaps) > 8 else "")
        span = f"{files[numbers[0]].stem}…{files[numbers[-1]].stem}"
        verb = "is" if len(gaps) == 1 else "are"
        raise ValueError(f"{folder}: layers {span} but {told} {verb} missing; copy what is missing")
    notes = []
    if numbers[0] not in (0, 1):
        notes.append(f"the first layer's file is {files[numbers[0]].name}: layer 0 here is number {numbers[0]} there")
    layers: list[LazyArray] = []
    voxel_um = None
    for path in files.values():
        if path.suffix.lower() in tiff.SUFFIXES:
            layer, stated = tiff.open_tiff(path)
            voxel_um = voxel_um or stated
        else:
            layer = image.open_image(path)
        if layer.ndim != 2:
            told = "×".join(map(str, layer.shape))
            raise ValueError(f"{path}: has shape {told}, expected one grey plane H×W a layer; save it as grey")
        if layers and layer.shape != layers[0].shape:
            first = next(iter(files.values()))
            raise ValueError(
                f"{folder}: layers of two sizes: {first.name} is {_size(layers[0])}, {path.name} is {_size(layer)} px"
            )
        if layers and layer.dtype != layers[0].dtype:
            first = next(iter(files.values()))
            raise ValueError(
                f"{folder}: layers of two dtypes: {first.name} is {layers[0].dtype}, {path.name} is {layer.dtype}"
            )
        layers.append(layer)
    if any(isinstance(layer, SpilledArray) for layer in layers):
        notes.append(
            "layers must be decoded whole, each when first touched, into $TMPDIR; `python -m data_recipes convert` "
            "makes a copy that reads fast"
        )
    kind = {p.suffix.lower().lstrip(".") for p in files.values()}
    named = (
        "TIFF" if kind <= {"tif", "tiff"} else "PNG" if kind == {"png"} else "JPEG" if "png" not in kind else "mixed"
    )
    return StackedLayers(layers), voxel_um, named, notes


def _size(array: LazyArray) -> str:
    return "×".join(map(str, array.shape))

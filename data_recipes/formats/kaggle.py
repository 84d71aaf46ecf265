"""The layout of Kaggle's ink detection: `surface_volume/00.tif …`, `mask.png`, `inklabels.png`, `ir.png`."""

from __future__ import annotations

from pathlib import Path

from data_recipes.formats.layers import open_layers
from data_recipes.formats.parts import Parts
from data_recipes.formats.segment import planes_of

VOXEL_UM = 3.24
FRAGMENTS = {(8181, 6330), (14830, 9506), (7606, 5249)}
"""(H, W) in px of the three published training fragments."""


def matches(path: Path) -> bool:
    """Whether `path` is a fragment's folder in this layout."""
    return (path / "surface_volume").is_dir()


def open_kaggle(path: Path) -> Parts:
    """Read the headers of a fragment's files. Errors as for a segment."""
    volume, voxel_um, kind, notes = open_layers(path / "surface_volume")
    parts = planes_of(path, f"Kaggle, {volume.shape[0]} {kind} layers")
    parts.volume, parts.voxel_um = volume, voxel_um
    parts.notes = notes + parts.notes
    _assume_voxel(parts)
    return parts


def open_labels(path: Path) -> Parts:
    """Labels and masks without layers; recognised as Kaggle's by the sizes of its three fragments."""
    parts = planes_of(path, "labels without layers")
    if any(plane.shape in FRAGMENTS for plane in parts.planes.values()):
        parts.format = "Kaggle labels without layers"
        _assume_voxel(parts)
    return parts


def _assume_voxel(parts: Parts) -> None:
    if parts.voxel_um is None:
        parts.voxel_um = VOXEL_UM
        parts.notes.append(f"voxel size assumed: {VOXEL_UM} µm, as of every fragment in Kaggle's layout")

"""The scroll-segment layout: `<id>/layers/00.tif …`, `<id>_mask.png`, `<id>_inklabels.png`; or labels alone."""

from __future__ import annotations

from pathlib import Path

from data_recipes.formats.companions import find_companions, open_plane
from data_recipes.formats.layers import layer_files, open_layers
from data_recipes.formats.parts import Parts


def layer_folder(path: Path) -> Path | None:
    """Where the layers of the segment at `path` lie: in `layers/`, or right there."""
    if (path / "layers").is_dir():
        return path / "layers"
    return path if layer_files(path) else None


def matches(path: Path) -> bool:
    """Whether `path` is a segment's folder, or its folder of layers."""
    return path.is_dir() and layer_folder(path) is not None


def open_segment(path: Path) -> Parts:
    """Read the headers of a segment's files.

    Raises:
        ValueError: as `open_layers`, or a plane that cannot be read.
    """
    folder = layer_folder(path)
    assert folder is not None
    root = path.parent if path.name == "layers" and folder == path else path
    volume, voxel_um, kind, notes = open_layers(folder)
    parts = planes_of(root, f"scroll segment, {volume.shape[0]} {kind} layers")
    parts.volume, parts.voxel_um = volume, voxel_um
    parts.notes = notes + parts.notes
    return parts


def planes_of(root: Path, format_name: str) -> Parts:
    """The masks and labels of the fragment in folder `root`, without a volume."""
    name = root.resolve().name
    sources, notes = find_companions(name, own=[root], beside=[root.resolve().parent])
    planes = {kind: open_plane(file) for kind, file in sources.items()}
    return Parts(format_name, name, None, planes, sources, settings_at=[root / "fragment.yaml"], notes=notes)


def has_planes(root: Path) -> bool:
    """Whether labels or masks lie in this folder."""
    return root.is_dir() and bool(find_companions(root.resolve().name, own=[root])[0])

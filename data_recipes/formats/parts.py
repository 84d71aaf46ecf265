"""What a format hands back to `open_fragment`: arrays that nothing was read of yet, and what was found out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from data_recipes.formats.arrays import LazyArray
from data_recipes.formats.remote import AnyPath


@dataclass
class Parts:
    """One fragment as its format found it.

    Attributes:
        format: in words, such as `scroll segment (13 TIFF layers)`.
        name: what the files call it.
        volume: (Z, H, W), or None where there are labels alone.
        planes: kind (`companions.KINDS`) -> stored (H, W) values, unconverted.
        sources: kind -> the file or folder that the plane came from.
        voxel_um: where the format states it.
        settings: what the data themselves say of the keys of `fragment.yaml`.
        settings_at: folders and files where a `fragment.yaml` may lie, the first that exists counts.
        full_shape: (H, W) of the finest level, where another level was opened.
        notes: what a person should know.
    """

    format: str
    name: str
    volume: LazyArray | None
    planes: dict[str, LazyArray] = field(default_factory=dict)
    sources: dict[str, AnyPath] = field(default_factory=dict)
    voxel_um: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    settings_at: list[AnyPath] = field(default_factory=list)
    full_shape: tuple[int, int] | None = None
    notes: list[str] = field(default_factory=list)

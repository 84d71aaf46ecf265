"""`python -m data_recipes info`: what was understood of a fragment, and what is missing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from data_recipes.fragment import Fragment, open_fragments

BAND_PIXELS = 1 << 22
"""Planes are counted in bands of about this many pixels: memory does not grow with the fragment."""


def statistics(fragment: Fragment) -> dict[str, Any]:
    """Percentages: papyrus of the whole; supervised, validation and ink of the papyrus; a count a class. Of a second
    label its ink, and the Dice of the two where they count."""
    height, width = fragment.shape
    rows = max(1, BAND_PIXELS // width)
    papyrus = supervised = validation = other_ink = shared = either = 0
    classes = np.zeros(256, np.int64)
    counted = np.zeros(256, np.int64)
    has_mask, has_supervision = "mask" in fragment.sources, "supervision_mask" in fragment.sources
    if not has_mask and not has_supervision and fragment.label is None and fragment.validation is None:
        return {"papyrus_percent": 100.0}
    for y in range(0, height, rows):
        band = slice(y, min(y + rows, height)), slice(0, width)
        on_papyrus = fragment.papyrus[band]
        papyrus += int(np.count_nonzero(on_papyrus))
        where = on_papyrus & fragment.supervised[band] if has_supervision else on_papyrus
        supervised += int(np.count_nonzero(where))
        if fragment.validation is not None:
            validation += int(np.count_nonzero(on_papyrus & fragment.validation[band]))
        if fragment.label is not None:
            label = fragment.label[band]
            classes += np.bincount(label[on_papyrus], minlength=256)
            counted += np.bincount(label[where], minlength=256)
            if fragment.other_label is not None:
                other, ink = fragment.other_label[band] > 0, (label > 0) & where
                other_ink += int(np.count_nonzero(other & on_papyrus))
                shared += int(np.count_nonzero(ink & other))
                either += int(np.count_nonzero(ink)) + int(np.count_nonzero(other & where))
    out: dict[str, Any] = {"papyrus_percent": _percent(papyrus, height * width)}
    if fragment.label is not None:
        out["ink_percent_of_papyrus"] = _percent(int(classes[1:].sum()), papyrus)
        if has_supervision:
            out["supervised_percent_of_papyrus"] = _percent(supervised, papyrus)
            out["ink_percent_of_supervised"] = _percent(int(counted[1:].sum()), supervised)
        if fragment.other_label is not None:
            out["other_ink_percent_of_papyrus"] = _percent(other_ink, papyrus)
            out["label_agreement_dice"] = 2 * shared / either if either else 1.0
        present = np.flatnonzero(classes)
        if fragment.label_values:
            out["class_percent_of_papyrus"] = {str(c): _percent(int(classes[c]), papyrus) for c in present}
    if fragment.validation is not None:
        out["validation_percent_of_papyrus"] = _percent(validation, papyrus)
    return out


def describe(fragment: Fragment, *, count: bool = True) -> dict[str, Any]:
    """All that is known of a fragment, as plain JSON values. `count=False` reads headers only."""
    volume = fragment.volume
    out: dict[str, Any] = {
        "name": fragment.name,
        "path": str(fragment.path),
        "format": fragment.format,
        "layers": fragment.depth,
        "height": fragment.shape[0],
        "width": fragment.shape[1],
        "dtype": None if volume is None else str(volume.dtype),
        "bytes": 0 if volume is None else int(np.prod(volume.shape)) * volume.dtype.itemsize,
        "voxel_um": fragment.voxel_um,
        "direction": None if "direction" in fragment.unknown or volume is None else fragment.direction,
        "center_layer": None if "center_layer" in fragment.unknown or volume is None else fragment.center_layer,
        "to_uint8": fragment.to_uint8,
        "planes": {kind: str(path) for kind, path in fragment.sources.items()},
        "notes": list(fragment.notes),
    }
    if volume is None:
        out["notes"].insert(0, "no layers: good for recipes, not for training or prediction")
    if count:
        out.update(statistics(fragment))
        if out["papyrus_percent"] == 0:
            out["notes"].insert(0, "the papyrus mask is all zero: nothing can be sampled from it")
        elif out.get("ink_percent_of_papyrus") == 0:
            out["notes"].insert(0, "the ink label is all zero on the papyrus: no ink to learn from")
    return out


def run(paths: list[str], *, as_json: bool, count: bool) -> None:
    """Body of the command."""
    fragments = open_fragments(paths)
    if as_json:
        print(json.dumps([describe(one, count=count) for one in fragments.values()], indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console(highlight=False)
    for fragment in fragments.values():
        console.print(_table(describe(fragment, count=count)))


def _table(facts: dict[str, Any]):
    """One fragment's facts as a rich table. What comes from files is plain text to rich, never markup."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(facts["name"], "bold"), title_justify="left", show_header=False, pad_edge=False, expand=False
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")

    def row(key: str, value: str, style: str = "") -> None:
        table.add_row(key, Text(value, style))

    row("path", facts["path"])
    row("format", facts["format"])
    size = f"{facts['height']} × {facts['width']} px"
    if facts["layers"]:
        row("volume", f"{facts['layers']} layers of {size}, {facts['dtype']}, {_gib(facts['bytes'])}")
        row("centre layer", _known(facts["center_layer"]))
        row("direction", _known(facts["direction"]))
    else:
        row("plane", size)
    um = facts["voxel_um"]
    area = f" ({facts['height'] * um / 1e4:.2f} × {facts['width'] * um / 1e4:.2f} cm)" if um else ""
    row("voxel size", f"{um:g} µm{area}" if um else "unknown", "" if um else "yellow")
    if facts["to_uint8"]:
        row("16 to 8 bits", facts["to_uint8"])
    for key, kind, title in (
        ("papyrus_percent", "mask", "papyrus"),
        ("ink_percent_of_papyrus", "inklabels", "ink"),
        ("other_ink_percent_of_papyrus", "other_label", "second label"),
        ("supervised_percent_of_papyrus", "supervision_mask", "supervised"),
        ("validation_percent_of_papyrus", "validation_mask", "validation"),
    ):
        source = facts["planes"].get(kind)
        if source is None:
            continue
        share = f"{facts[key]:.2f} %{'' if kind == 'mask' else ' of the papyrus'}" if key in facts else "present"
        if kind == "inklabels" and "ink_percent_of_supervised" in facts:
            share += f", {facts['ink_percent_of_supervised']:.2f} % of what is supervised"
        if kind == "other_label" and key in facts:
            share += f", agrees with the first to a Dice of {facts['label_agreement_dice']:.3f}"
        row(title, f"{share}  ({source.rsplit('/', 1)[-1]})")
    if "class_percent_of_papyrus" in facts:
        row("classes", ", ".join(f"{c}: {p:.2f} %" for c, p in facts["class_percent_of_papyrus"].items()))
    for number, note in enumerate(facts["notes"]):
        row("notes" if number == 0 else "", note, "yellow")
    return table


def _known(value: Any) -> str:
    return "unknown" if value is None else str(value)


def _percent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 0.0


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**29 else f"{size / 2**20:.1f} MiB"

"""Phantoms on disk: written once into a cache folder, in the layout of a scroll segment, and read like real data."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from data_recipes.files import cache_folder, check_writable

from . import build, constants
from .build import INKS, TEST_SEEDS, VERSION, WANDER, Ink, PhantomArrays, make_phantom

HEIGHT, WIDTH = 768, 1024
VOXEL_UM = 7.91
_SPEC = re.compile(r"phantom:([a-z]+):(\d+)(?::(?:(\d+)x)?(\d+))?")


def parse_spec(spec: str) -> tuple[Ink, int, int, int]:
    """`phantom:<ink>:<seed>[:<W>|:<H>x<W>]` -> ink, seed, height, width; the height is 3/4 of W when not given.

    Raises ValueError that says what was expected.
    """
    found = _SPEC.fullmatch(spec)
    ink: Ink | None = next((known for known in INKS if found and known == found[1]), None)
    if not found or ink is None:
        raise ValueError(
            f"cannot read {spec!r}: expected phantom:<ink>:<seed>[:<width>|:<height>x<width>] with ink "
            f"{' or '.join(INKS)}, for example phantom:dipole:7 or phantom:crackle:1000:512x768"
        )
    width = int(found[4]) if found[4] else WIDTH
    height = int(found[3]) if found[3] else (width * 3 // 4 if found[4] else HEIGHT)
    return ink, int(found[2]), height, width


def phantom_fragment(spec: str) -> Path:
    """The folder of the phantom that `spec` names, generated on first use.

    It is written beside its place and renamed, so that a folder that exists is whole, whoever else writes it too.
    """
    ink, seed, height, width = parse_spec(spec)
    name = f"phantom-{ink}-{seed}-{height}x{width}"
    home = cache_folder()
    folder = home / f"v{VERSION}" / name
    if (folder / "phantom.json").is_file():
        return folder
    check_writable(folder.parent, "$INKZOO_CACHE")
    phantom = make_phantom(seed, ink=ink, height=height, width=width)
    draft = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        write_phantom(phantom, draft, name)
        draft.chmod(0o755)
        try:
            draft.rename(folder)
        except OSError:
            if not (folder / "phantom.json").is_file():  # not merely another process that was faster
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def write_phantom(phantom: PhantomArrays, folder: Path, name: str) -> None:
    """Writes the segment layout into an existing folder: layers, mask, labels, fragment.yaml, phantom.json.

    `<name>_inklabels.png` is the label to use (as drawn for development seeds, exact for test seeds);
    `<name>_exact.png`, `<name>_drawn.png` and `<name>_decoy.png` are there for either.
    """
    layers, height, width = phantom.volume.shape
    (folder / "layers").mkdir()
    for index, layer in enumerate(phantom.volume):
        tifffile.imwrite(folder / "layers" / f"{index:02d}.tif", layer, photometric="minisblack")
    planes = {
        "mask": phantom.papyrus,
        "inklabels": phantom.label,
        "exact": phantom.exact,
        "drawn": phantom.drawn,
        "decoy": phantom.decoy,
    }
    for kind, plane in planes.items():
        Image.fromarray(plane.astype(np.uint8) * 255).save(folder / f"{name}_{kind}.png")
    (folder / "fragment.yaml").write_text(
        f"name: {name}\nvoxel_um: {VOXEL_UM}\ndirection: forward\ncenter_layer: {layers // 2}\n", encoding="utf-8"
    )
    record = {
        "version": VERSION,
        "ink": phantom.ink,
        "seed": phantom.seed,
        "purpose": "test" if phantom.seed in TEST_SEEDS else "development",
        "label": "exact" if phantom.seed in TEST_SEEDS else "drawn",
        "layers": layers,
        "height": height,
        "width": width,
        "letters": {
            kind: sum(letter.ink is ink for letter in phantom.page.letters)
            for kind, ink in (("ink", True), ("decoy", False))
        },
        "letters_missing_in_drawn": phantom.by_hand.missing,
        "pen_px": phantom.page.pen,
        "letter_px": phantom.page.size,
        "surface_wander_layers": WANDER,
        "grey_values": {"noise": build.NOISE, "dipole": build.DIPOLE, "crust": build.CRUST},
        "noise": {
            "frequency_per_px": constants.FREQUENCY,
            "power": constants.POWER,
            "band_ends_per_px": constants.BANDS,
            "z_correlation": constants.Z_CORRELATION,
        },
        "ceiling": asdict(phantom.ceiling),
    }
    (folder / "phantom.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

"""Memory never depends on a fragment's size: a 20 GB one of sparse files, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_recipes.fragment import open_fragment

FEW_TILES = (160, 8000, 32, 4)
MANY_PIXELS = (40, 16000, 96, 16)


def sparse_tiff(path: Path, side: int) -> None:
    """A raw uint16 TIFF of side × side px whose pixels take no room on disk."""
    entries = [(256, 4, side), (257, 4, side), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 256), (277, 3, 1)]
    entries += [(278, 4, side), (279, 4, side * side * 2)]
    head = b"II*\0" + (8).to_bytes(4, "little") + len(entries).to_bytes(2, "little")
    for tag, kind, value in entries:
        head += tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + (1).to_bytes(4, "little")
        head += value.to_bytes(4, "little")
    with open(path, "wb") as file:
        file.write(head + bytes(4))
        file.truncate(256 + side * side * 2)


SCRIPT = """
import json, sys, threading, time
import numpy as np
import imagecodecs, tifffile, rich.console, rich.table  # code is not data: loaded before counting starts
from data_recipes.fragment import open_fragment
from data_recipes.info import describe

def anonymous():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("RssAnon"))

tile, layers = int(sys.argv[2]), int(sys.argv[3])
start, peak, running = anonymous(), 0, True
def watch():
    global peak
    while running:
        peak = max(peak, anonymous())
        time.sleep(0.002)
watcher = threading.Thread(target=watch)
watcher.start()
fragment = open_fragment(sys.argv[1])
facts = describe(fragment)
rng = np.random.default_rng(0)
for _ in range(1000):
    y, x = (int(rng.integers(0, side - tile)) for side in fragment.shape)
    assert fragment.read(y, y + tile, x, x + tile, 12, 12 + layers).shape == (layers, tile, tile)
    assert fragment.papyrus[y : y + tile, x : x + tile].shape == fragment.label[y : y + tile, x : x + tile].shape
running = False
watcher.join()
print(json.dumps({"grown": peak - start, "bytes": facts["bytes"], "papyrus": facts["papyrus_percent"]}))
"""


@pytest.mark.parametrize(
    ("depth", "side", "tile", "layers"), [FEW_TILES, pytest.param(*MANY_PIXELS, marks=pytest.mark.slow)]
)
def test_twenty_gigabytes_are_told_of_and_sampled_within_300_mb(tmp_path, depth, side, tile, layers):
    (tmp_path / "big" / "layers").mkdir(parents=True)
    for z in range(depth):
        sparse_tiff(tmp_path / "big" / "layers" / f"{z:02}.tif", side)
    mask = np.zeros((side, side), np.uint8)
    mask[: side // 2] = 255
    Image.fromarray(mask).save(tmp_path / "big" / "big_mask.png", compress_level=1)
    (tmp_path / "big" / "big_inklabels.png").hardlink_to(tmp_path / "big" / "big_mask.png")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "big"), str(tile), str(layers)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert got["bytes"] == depth * side * side * 2 > 20e9
    assert got["papyrus"] == 50
    print(f"anonymous memory grew by {got['grown'] / 1e6:.0f} MB")
    assert got["grown"] < 300e6, f"{got['grown'] / 1e6:.0f} MB"


def test_planes_are_decoded_once_a_process_and_outside_anonymous_memory(tmp_path):
    (tmp_path / "one" / "layers").mkdir(parents=True)
    sparse_tiff(tmp_path / "one" / "layers" / "00.tif", 64)
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(tmp_path / "one" / "one_mask.png")
    fragment = open_fragment(tmp_path / "one")
    assert fragment.papyrus[3, 3]
    (tmp_path / "one" / "one_mask.png").unlink()
    assert (fragment.papyrus[...] == np.eye(64, dtype=bool)).all()

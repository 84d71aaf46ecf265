"""How fast a random 64×256×256 tile is read from a converted fragment, beside three ways in which others read one.

    python benchmarks/speed/read_tiles.py [--side 1536] [--tiles 40] [--cold]

All four hold the same bytes: 65 layers of fibre-like noise. Peers: tifffile reading the touched layers whole, as the
notebooks of the field do; this project's own reader on the same compressed TIFF layers; and zarr with the chunks it
chooses itself. Tiles are read in turn from each, so that a slow moment of the machine hits all of them.

The system still holds the files just written, unless `--cold` has it let go of them before every tile: then the disk's
own speed is in the times.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import tifffile
import zarr
from scipy.ndimage import gaussian_filter

from data_recipes.convert import convert
from data_recipes.fragment import open_fragment

LAYERS, TILE = 65, (64, 256, 256)
Read = Callable[[int, int], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=1536, help="side of the fragment, px")
    parser.add_argument("--tiles", type=int, default=40, help="tiles read from each")
    parser.add_argument("--cold", action="store_true", help="from the disk, not from the system's memory of it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        readers = prepare(Path(folder), options.side)
        rng = np.random.default_rng(0)
        seconds: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(options.tiles):
            y, x = (int(v) for v in rng.integers(0, options.side - TILE[1], 2))
            tiles = {}
            for name, read in readers.items():
                if options.cold:
                    forget(Path(folder))
                began = time.perf_counter()
                tiles[name] = read(y, x)
                seconds[name].append(time.perf_counter() - began)
            first = next(iter(tiles.values()))
            if not all(np.array_equal(first, tile) for tile in tiles.values()):
                raise SystemExit(f"the readers disagree on the tile at row {y}, column {x}")
    ours, *peers = seconds
    print(f"{ours}: {1000 * median(seconds[ours]):.1f} ms a tile (median of {options.tiles})")
    for peer in peers:
        ratio = median(seconds[peer]) / median(seconds[ours])
        print(f"{peer}: {1000 * median(seconds[peer]):.1f} ms, {ratio:.2f} times ours")


def prepare(folder: Path, side: int) -> dict[str, Read]:
    """Write the same volume in each form; the first reader is ours."""
    rng = np.random.default_rng(1)
    noise = gaussian_filter(rng.standard_normal((LAYERS, side, side), dtype=np.float32), (1, 2, 2))
    volume = np.clip(110 + 25 * noise / noise.std(), 0, 255).astype(np.uint8)
    layers = folder / "fragment" / "layers"
    layers.mkdir(parents=True)
    for z, layer in enumerate(volume):
        tifffile.imwrite(layers / f"{z:02d}.tif", layer, compression="zlib", tile=(256, 256))
    convert(folder / "fragment", folder / "ours.zarr", progress=False)
    plain = zarr.create_array(folder / "plain.zarr", shape=volume.shape, dtype="uint8")
    plain[:] = volume
    ours, tiffs = open_fragment(folder / "ours.zarr"), open_fragment(folder / "fragment")
    opened = zarr.open_array(folder / "plain.zarr", mode="r")
    depth, height, width = TILE

    def whole_layers(y: int, x: int) -> np.ndarray:
        stack = [tifffile.imread(layers / f"{z:02d}.tif")[y : y + height, x : x + width] for z in range(depth)]
        return np.stack(stack)

    return {
        "converted fragment": lambda y, x: ours.read(y, y + height, x, x + width, 0, depth),
        "tifffile, whole layers": whole_layers,
        "this reader on the TIFF layers": lambda y, x: tiffs.read(y, y + height, x, x + width, 0, depth),
        "zarr, its own chunks": lambda y, x: np.asarray(opened[:depth, y : y + height, x : x + width]),
    }


def forget(folder: Path) -> None:
    """Have the system drop what it holds of the files in a folder."""
    os.sync()  # what is not yet on the disk cannot be dropped
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()

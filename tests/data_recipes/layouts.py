"""One small fragment, written in every layout that is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
import zarr
from PIL import Image

SHAPE = (5, 70, 90)


def volume(dtype=np.uint16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, SHAPE).astype(dtype)


def planes(seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: (rng.random(SHAPE[1:]) > 0.5).astype(np.uint8) * 255 for name in ("mask", "inklabels")}


def write_layers(folder: Path, data: np.ndarray, suffix: str = ".tif", digits: int = 2, **options) -> None:
    folder.mkdir(parents=True)
    for z, layer in enumerate(data):
        path = folder / f"{z:0{digits}}{suffix}"
        if suffix == ".tif":
            tifffile.imwrite(path, layer, **options)
        else:
            Image.fromarray(layer).save(path, **options)


def save(path: Path, plane: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(plane).save(path)


def segment_raw(root: Path, data: np.ndarray) -> Path:
    write_layers(root / "seg" / "layers", data)
    return root / "seg"


def segment_four_digits(root: Path, data: np.ndarray) -> Path:
    write_layers(root / "seg" / "layers", data, digits=4)
    return root / "seg"


def segment_one_digit(root: Path, data: np.ndarray) -> Path:
    write_layers(root / "seg" / "layers", np.concatenate([data, data, data]), digits=1)
    return root / "seg"


def segment_deflate_strips(root: Path, data: np.ndarray) -> Path:
    write_layers(root / "seg" / "layers", data, compression="zlib", rowsperstrip=7, predictor=True)
    return root / "seg"


def segment_lzw_one_strip(root: Path, data: np.ndarray) -> Path:
    write_layers(root / "seg" / "layers", data, compression="lzw")
    return root / "seg"


def segment_tiled(root: Path, data: np.ndarray) -> Path:
    write_layers(root / "seg" / "layers", data, compression="zlib", tile=(32, 48))
    return root / "seg"


def segment_raw_tiled(root: Path, data: np.ndarray) -> Path:
    write_layers(root / "seg" / "layers", data, tile=(32, 48))
    return root / "seg"


def segment_big_endian(root: Path, data: np.ndarray) -> Path:
    write_layers(root / "seg" / "layers", data, byteorder=">")
    return root / "seg"


def segment_png(root: Path, data: np.ndarray) -> Path:
    write_layers(root / "seg" / "layers", data, ".png")
    return root / "seg"


def layers_folder_itself(root: Path, data: np.ndarray) -> Path:
    return segment_raw(root, data) / "layers"


def kaggle(root: Path, data: np.ndarray) -> Path:
    write_layers(root / "1" / "surface_volume", data)
    return root / "1"


def tiff_pages(root: Path, data: np.ndarray) -> Path:
    tifffile.imwrite(root / "x.tif", data)
    return root / "x.tif"


def tiff_pages_plain(root: Path, data: np.ndarray) -> Path:
    with tifffile.TiffWriter(root / "x.tif") as tif:
        for layer in data:
            tif.write(layer, contiguous=False, metadata=None)
    return root / "x.tif"


def bigtiff_tiled_deflate(root: Path, data: np.ndarray) -> Path:
    tifffile.imwrite(root / "x.tif", data, bigtiff=True, tile=(16, 32), compression="zlib")
    return root / "x.tif"


def tiff_deep_tiles(root: Path, data: np.ndarray) -> Path:
    tifffile.imwrite(root / "x.tif", data, tile=(16, 32, 32), volumetric=True, compression="zlib")
    return root / "x.tif"


def tiff_imagej(root: Path, data: np.ndarray) -> Path:
    tifffile.imwrite(root / "x.tif", data, imagej=True, metadata={"axes": "ZYX"})
    return root / "x.tif"


def zarr_v2(root: Path, data: np.ndarray) -> Path:
    array = zarr.create_array(root / "x.zarr", shape=data.shape, dtype=data.dtype, chunks=(5, 32, 32), zarr_format=2)
    array[...] = data
    return root / "x.zarr"


def zarr_v3(root: Path, data: np.ndarray) -> Path:
    array = zarr.create_array(root / "x.zarr", shape=data.shape, dtype=data.dtype, chunks=(5, 32, 32))
    array[...] = data
    return root / "x.zarr"


def ome(root: Path, data: np.ndarray, version: int, name: str = "x.zarr", unit: str | None = "micrometer") -> Path:
    group = zarr.create_group(root / name, zarr_format=2 if version == 2 else 3)
    levels = [data, data[:, ::2, ::2], data[:, ::4, ::4]]
    datasets = []
    for i, level in enumerate(levels):
        keys = {"name": "v2", "separator": "/"} if version == 2 else None
        options = {"shape": level.shape, "dtype": level.dtype, "chunks": (5, 32, 32), "chunk_key_encoding": keys}
        array = group.create_array(str(i), **options)
        array[...] = level
        scale = [7.91, 7.91 * 2**i, 7.91 * 2**i]
        datasets.append({"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    axes = [{"name": n, "type": "space", **({"unit": unit} if unit else {})} for n in "zyx"]
    multiscales = [{"axes": axes, "datasets": datasets, "version": "0.4"}]
    described = {"multiscales": multiscales}
    group.attrs.update(described if version == 2 else {"ome": {"version": "0.5", **described}})
    return root / name


def ome_04(root: Path, data: np.ndarray) -> Path:
    return ome(root, data, 2)


def ome_05(root: Path, data: np.ndarray) -> Path:
    return ome(root, data, 3)


def zarr_five_axes(root: Path, data: np.ndarray) -> Path:
    array = zarr.create_array(root / "x.zarr", shape=(1, 1, *data.shape), dtype=data.dtype, chunks=(1, 1, 5, 32, 32))
    array[...] = data[None, None]
    return root / "x.zarr"


LAYOUTS: list[Callable[[Path, np.ndarray], Path]] = [
    segment_raw, segment_four_digits, segment_deflate_strips, segment_lzw_one_strip, segment_tiled, segment_raw_tiled,
    segment_big_endian, segment_png, layers_folder_itself, kaggle, tiff_pages, tiff_pages_plain,
    bigtiff_tiled_deflate, tiff_deep_tiles, tiff_imagej, zarr_v2, zarr_v3, ome_04, ome_05, zarr_five_axes,
]  # fmt: skip

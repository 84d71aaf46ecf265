"""The stamp by which finished runs are kept: other labels, masks or layers of the same size are other data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from data_recipes.formats.arrays import LazyArray
from data_recipes.fragment import Fragment, open_fragment
from data_recipes.stamp import data_stamp

HEIGHT, WIDTH, LAYERS = 96, 200, 5
PLANES = {"inklabels": "label", "mask": "papyrus", "supervision_mask": "supervised", "validation_mask": "validation"}


def plane() -> np.ndarray:
    return np.tile((np.arange(WIDTH) % 40 < 20).astype(np.uint8) * 255, (HEIGHT, 1))


def write_plane(path: Path, values: np.ndarray) -> None:
    """A PNG, an uncompressed TIFF, or a zarr v3 or v2 of several chunks, by the path's name."""
    if path.suffix == ".png":
        Image.fromarray(values).save(path)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, values)
    else:
        array: Any = zarr.create_array(
            path,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(32, 64),
            zarr_format=2 if "v2" in path.parts else 3,
            chunk_key_encoding={"name": "v2" if "v2" in path.parts else "default", "separator": "/"},
            overwrite=True,
        )
        array[...] = values


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (LAYERS, HEIGHT, WIDTH), dtype=np.uint8)


def write_layers(folder: Path, volume: np.ndarray) -> None:
    (folder / "layers").mkdir(parents=True, exist_ok=True)
    for z, layer in enumerate(volume):
        tifffile.imwrite(folder / "layers" / f"{z:02}.tif", layer)


@pytest.mark.parametrize("kind", [*PLANES, "other_label"])
@pytest.mark.parametrize("suffix", [".png", ".tif", "v2.zarr", "v3.zarr"])
def test_one_pixel_of_any_label_or_mask_changes_it(tmp_path: Path, volume: np.ndarray, kind: str, suffix: str) -> None:
    folder = tmp_path / suffix.removesuffix(".zarr") / "seg"
    write_layers(folder, volume)
    path = folder / (f"seg_{kind}.zarr" if "zarr" in suffix else f"seg_{kind}{suffix}")
    if kind == "other_label":
        (folder / "fragment.yaml").write_text(f"other_label: {path.name}\n")
    bare = None if kind == "other_label" else data_stamp(open_fragment(folder))
    values = plane()
    write_plane(path, values)
    fragment = open_fragment(folder)
    before = data_stamp(fragment)
    assert before != bare
    assert before == data_stamp(open_fragment(folder))
    shown = getattr(fragment, PLANES.get(kind, kind))[HEIGHT - 1, WIDTH - 1]
    values[-1, -1] = 255 - values[-1, -1]
    write_plane(path, values)
    changed = open_fragment(folder)
    assert getattr(changed, PLANES.get(kind, kind))[HEIGHT - 1, WIDTH - 1] != shown
    assert data_stamp(changed) != before


def test_another_class_changes_it(tmp_path: Path, volume: np.ndarray) -> None:
    write_layers(tmp_path / "seg", volume)
    (tmp_path / "seg" / "fragment.yaml").write_text("label_values: {0: 0, 100: 1, 200: 2}\n")
    values = plane() // 255 * 100
    stamps = set()
    for value in (0, 100, 200):
        values[5, 5] = value
        write_plane(tmp_path / "seg" / "seg_inklabels.tif", values)
        stamps.add(data_stamp(open_fragment(tmp_path / "seg")))
    assert len(stamps) == 3


def test_layers_exported_anew_change_it_though_their_files_have_the_same_size(
    tmp_path: Path, volume: np.ndarray
) -> None:
    folder = tmp_path / "seg"
    stamps, sizes = [], set()
    once_more = volume.copy()
    once_more[LAYERS // 2] = 255 - volume[LAYERS // 2]
    for stored in (volume, volume[::-1], once_more, (volume * 1.2).astype(np.uint8), volume):
        write_layers(folder, stored)
        stamps.append(data_stamp(open_fragment(folder)))
        sizes.add(tuple(sorted((p.name, p.stat().st_size) for p in (folder / "layers").iterdir())))
    assert len(sizes) == 1
    assert len(set(stamps)) == 4
    assert stamps[0] == stamps[-1]


@pytest.mark.parametrize("stated", ["direction: reverse", "center_layer: 1", "voxel_um: 3.24", "to_uint8: high_byte"])
def test_what_is_stated_beside_a_zarr_changes_it(tmp_path: Path, volume: np.ndarray, stated: str) -> None:
    array: Any = zarr.create_array(tmp_path / "x.zarr", shape=volume.shape, dtype=volume.dtype, chunks=(5, 32, 64))
    array[...] = volume
    before = data_stamp(open_fragment(tmp_path / "x.zarr"))
    (tmp_path / "x.fragment.yaml").write_text(stated + "\n")
    assert data_stamp(open_fragment(tmp_path / "x.zarr")) != before


def test_no_more_of_a_large_volume_is_read_than_of_a_small_one(tmp_path: Path, volume: np.ndarray) -> None:
    class Counting(LazyArray):
        def __init__(self, shape: tuple[int, ...]):
            self.shape, self.dtype, self.read = shape, np.dtype(np.uint8), 0

        def _read(self, box: tuple[slice, ...]) -> np.ndarray:
            out = np.zeros([s.stop - s.start for s in box], np.uint8)
            self.read += out.size
            return out

    write_layers(tmp_path / "seg", volume)
    read = []
    for scale in (4, 400):
        fragment: Fragment = open_fragment(tmp_path / "seg")
        fragment.volume = Counting((LAYERS * scale, HEIGHT * scale, WIDTH * scale))
        data_stamp(fragment)
        read.append(fragment.volume.read)
    assert read[0] == read[1] == 3 * 9 * 64 * 64

"""A finished map opens in other people's readers, in every form, with the same values and what it says of itself."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from data_recipes.fragment import Fragment
from tests.zoo.segments import plan_of, write_segment
from zoo.ink_map import open_ink_map
from zoo.predict.export import run_lengths
from zoo.predict.finish import finish
from zoo.predict.pyramid import halved
from zoo.predict.store import MapStore, stored

HEIGHT, WIDTH = 600, 1031


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Fragment:
    return write_segment(tmp_path_factory.mktemp("segment"), HEIGHT, WIDTH)


def made(segment: Fragment, out: Path, also=(), threshold: float | None = None, **plan: object) -> np.ndarray:
    """A finished map of random probabilities; these."""
    store = MapStore.begin(out.with_name(out.name + ".partial"), plan_of(segment, shard=512, chunk=256, **plan))
    prob = np.random.default_rng(0).random((HEIGHT, WIDTH), np.float32)
    prob[:300] *= 0.4
    for shard in range(len(store.grid)):
        store.write(shard, prob[store.grid.rect(shard).slices])
    finish(store, out, also=also, threshold=threshold)
    return prob


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_ome_zarrs_own_reader_opens_all_levels(segment: Fragment, tmp_path: Path, version: int, dtype: str) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    prob = made(segment, tmp_path / "map.zarr", dtype=dtype, zarr_format=version)
    location = parse_url(tmp_path / "map.zarr")
    assert location is not None
    (node,) = list(Reader(location)())
    assert [level.shape for level in node.data] == [(600, 1031), (300, 516), (150, 258)]
    assert np.array_equal(np.asarray(node.data[0]), stored(prob, dtype))
    assert node.metadata["axes"][0]["unit"] == "micrometer"
    group = zarr.open_group(tmp_path / "map.zarr", mode="r")
    assert group.metadata.zarr_format == version
    said = group.attrs["ome"] if version == 3 else group.attrs
    (multiscale,) = said["multiscales"]  # pyright: ignore
    assert (said if version == 3 else multiscale)["version"] == ("0.5" if version == 3 else "0.4")  # pyright: ignore
    for level, dataset in enumerate(multiscale["datasets"]):
        scale = dataset["coordinateTransformations"][0]["scale"]
        assert scale == pytest.approx([7.91 * 2**level] * 2)
    assert group.attrs["inkzoo"]["prediction"]["size_px"] == [HEIGHT, WIDTH]  # pyright: ignore
    assert not (tmp_path / "map.zarr/.inkzoo").exists()
    assert not (tmp_path / "map.zarr.partial").exists()


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
def test_every_form_holds_the_map_and_its_provenance(segment: Fragment, tmp_path: Path, dtype: str) -> None:
    out = tmp_path / "map.tif"
    prob = made(segment, out, ("png", "mask", "csv"), 0.5, dtype=dtype)
    kept = stored(prob, dtype)
    with tifffile.TiffFile(out) as tiff:
        page = tiff.pages.first
        assert tiff.is_bigtiff
        assert page.is_tiled
        assert np.array_equal(page.asarray(), kept)
    assert np.array_equal(tifffile.imread(out), kept)
    for name in ("map.tif", "map.png"):
        opened = open_ink_map(tmp_path / name)
        assert opened.threshold == 0.5
        np.testing.assert_allclose(opened.read(0, HEIGHT, 0, WIDTH), prob, atol=1 / 255)
    with tifffile.TiffFile(out) as tiff:
        page = tiff.pages.first
        assert json.loads(page.description)["inkzoo"]["prediction"]["threshold"] == 0.5
        assert page.tags["XResolution"].value[0] / page.tags["XResolution"].value[1] == pytest.approx(1e4 / 7.91, 1e-5)
    grey = kept if dtype == "uint8" else np.rint(kept.astype(np.float32) * 255).astype(np.uint8)
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.mode == "L"
        assert np.array_equal(np.asarray(picture), grey)
        assert json.loads(picture.text["inkzoo"])["inkzoo"]["prediction"]["fragment"] == segment.name  # pyright: ignore
    ink = (kept.astype(np.float32) / 255 if dtype == "uint8" else kept.astype(np.float32)) >= 0.5
    with Image.open(tmp_path / "map_mask.png") as picture:
        assert np.array_equal(np.asarray(picture), ink * np.uint8(255))
    csv.field_size_limit(2**24)
    ((heading, told), (name, runs)) = csv.reader(io.StringIO((tmp_path / "map.csv").read_text()))
    assert (heading, told, name) == ("Id", "Predicted", segment.name)
    filled = np.zeros(ink.size, bool)
    numbers = [int(word) for word in runs.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        filled[start - 1 : start - 1 + length] = True
    assert np.array_equal(filled.reshape(ink.shape), ink)
    assert not (tmp_path / "map.tif.partial").exists()
    with Image.open(tmp_path / "map_preview.png") as picture:
        assert picture.size == (WIDTH, HEIGHT)


def test_a_preview_is_reduced(segment: Fragment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.predict.export.PREVIEW", 600)
    made(segment, tmp_path / "map.png")
    with Image.open(tmp_path / "map_preview.png") as picture:
        assert picture.size == (516, 300)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.png", "map_preview.png"]


def test_a_map_is_finished_only_when_every_shard_is_there(segment: Fragment, tmp_path: Path) -> None:
    store = MapStore.begin(tmp_path / "map.zarr.partial", plan_of(segment, shard=512, chunk=256))
    store.write(0, None)
    with pytest.raises(ValueError, match="5 of 6 shards are missing"):
        finish(store, tmp_path / "map.zarr", also=(), threshold=None)
    assert not (tmp_path / "map.zarr").exists()


def test_finishing_anew_after_it_was_cut_off_gives_the_same_map(
    segment: Fragment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(segment, tmp_path / "one.zarr")
    with monkeypatch.context() as broken:
        broken.setattr(MapStore, "settle", lambda store, out: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match="full"):
            made(segment, tmp_path / "two.zarr")
    (tmp_path / "two.zarr.partial/0/c/0").mkdir(parents=True, exist_ok=True)
    (tmp_path / "two.zarr.partial/0/c/0/0.1f.partial").write_text("cut off")
    made(segment, tmp_path / "two.zarr")
    assert not list((tmp_path / "two.zarr").rglob("*.partial"))
    levels = [[zarr.open_array(tmp_path / f"{name}.zarr/{n}")[:] for n in range(3)] for name in ("one", "two")]
    assert all(np.array_equal(a, b) for a, b in zip(*levels, strict=True))


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.integers(1, 4))
def test_run_lengths_are_those_of_the_flattened_mask(ink: np.ndarray, band: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.predict.export._BAND", band)
        found = list(run_lengths(ink.astype(np.uint8) * 255, 0.5))
    filled = np.zeros(ink.size, bool)
    for start, length in found:
        assert not filled[max(start - 2, 0) : start + length].any()  # runs do not touch
        filled[start - 1 : start - 1 + length] = True
    assert np.array_equal(filled, ink.ravel())


def test_halving_takes_means_and_rounds_to_the_nearest() -> None:
    block = np.array([[0, 1, 7], [1, 1, 9], [10, 20, 200]], np.uint8)
    assert halved(block).tolist() == [[1, 8], [15, 200]]
    assert halved(np.full((3, 5), 0.3, np.float16)).tolist() == np.full((2, 3), 0.3, np.float16).tolist()


def test_probabilities_are_stored_as_the_nearest_step() -> None:
    prob = np.array([0, 0.5 / 255, 0.51 / 255, 0.5, 1, 1.0000001], np.float32)
    assert stored(prob, "uint8").tolist() == [0, 0, 1, 128, 255, 255]
    assert stored(prob, "float16").dtype == np.float16

"""Every layout gives the same fragment: volume, masks and label, byte for byte."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from data_recipes.formats import tiff
from data_recipes.fragment import open_fragment, open_fragments
from tests.data_recipes.layouts import (
    LAYOUTS,
    SHAPE,
    ome,
    planes,
    save,
    segment_one_digit,
    segment_raw,
    tiff_pages,
    volume,
    write_layers,
    zarr_v2,
    zarr_v3,
)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_layout_gives_the_same_volume(tmp_path, layout, dtype):
    data = volume(dtype)
    fragment = open_fragment(layout(tmp_path, data))
    assert fragment.volume is not None
    assert fragment.volume.shape == SHAPE
    assert fragment.volume.dtype == dtype
    for box in (np.s_[1:4, 5:40, 33:81], np.s_[...], np.s_[2, 3:60:7, -9], np.s_[:, ::4, 1:2], np.s_[3]):
        got = fragment.volume[box]
        assert got.dtype == dtype
        assert got.dtype.isnative
        np.testing.assert_array_equal(got, data[box])
    np.testing.assert_array_equal(fragment.read(5, 69, 20, 84, 1, 5), data[1:5, 5:69, 20:84])


def test_layers_are_in_the_order_of_their_numbers_without_padding(tmp_path):
    data = volume()
    fragment = open_fragment(segment_one_digit(tmp_path, data))
    np.testing.assert_array_equal(fragment.volume[11], data[1])


def test_jpeg_layers_are_read(tmp_path):
    smooth = np.tile(np.linspace(0, 255, 90).astype(np.uint8), (5, 70, 1))
    write_layers(tmp_path / "seg" / "layers", smooth, ".jpg", quality=95)
    fragment = open_fragment(tmp_path / "seg")
    assert np.abs(fragment.volume[...].astype(int) - smooth).max() <= 4
    assert any("convert" in note for note in fragment.notes)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_any_level_of_a_multiscale_zarr(tmp_path, version, level):
    data = volume(np.uint8)
    path = ome(tmp_path, data, version)
    fragment = open_fragment(path / str(level))
    step = 2**level
    np.testing.assert_array_equal(fragment.volume[...], data[:, ::step, ::step])
    assert fragment.voxel_um == pytest.approx(7.91 * step)
    assert fragment.name == "x"
    (tmp_path / "fragment.yaml").write_text(f"level: {level}\n")
    assert open_fragment(path).volume.shape == fragment.volume.shape


def test_scale_without_a_unit_says_nothing_of_the_voxel_size(tmp_path):
    fragment = open_fragment(ome(tmp_path, volume(), 2, unit=None))
    assert fragment.voxel_um is None
    assert "voxel_um" in fragment.unknown


def test_level_that_is_not_there_is_refused_with_those_that_are(tmp_path):
    path = ome(tmp_path, volume(), 3)
    (path / "fragment.yaml").write_text("level: 7")
    with pytest.raises(ValueError, match="level 7 .* levels 0 to 2"):
        open_fragment(path)


def test_label_zarr_gives_its_middle_plane_at_the_same_level(tmp_path):
    path = ome(tmp_path, volume(), 2, "20230.zarr")
    label = np.zeros(SHAPE, np.uint8)
    label[2] = planes()["inklabels"]
    ome(tmp_path, label, 2, "20230_inklabels.zarr")
    ome(tmp_path, np.full(SHAPE, 255, np.uint8), 2, "20230_supervision_mask.zarr")
    for where, step in ((path, 1), (path / "1", 2)):
        fragment = open_fragment(where)
        np.testing.assert_array_equal(fragment.label[...], label[2, ::step, ::step] > 0)
        assert fragment.supervised[...].all()
    assert list(open_fragments([tmp_path])) == ["20230"]


def test_label_at_the_finest_level_only_is_left_aside_at_another(tmp_path):
    path = ome(tmp_path, volume(), 3)
    save(tmp_path / "x_inklabels.png", planes()["inklabels"])
    assert open_fragment(path).label is not None
    coarse = open_fragment(path / "1")
    assert coarse.label is None
    assert any("finest level" in note for note in coarse.notes)


NAMES = [
    "{id}/{id}_inklabels.png", "{id}/{id}_inklabels.tif", "{id}/{id}_inklabels.tiff", "{id}/inklabels.png",
    "{id}_inklabels.png", "labels/{id}_inklabels.png", "inklabels/{id}.png", "{id}/labels/inklabels.png",
    "{id}/renamed_inklabels.png", "{id}/{id}_inklabels.zarr", "{id}/label.png",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_label_is_found_under_all_its_names(tmp_path, name):
    label = planes()["inklabels"]
    write_layers(tmp_path / "2023" / "layers", volume())
    path = tmp_path / name.format(id="2023")
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".zarr":
        zarr.create_array(path, shape=label.shape, dtype="uint8", chunks=(32, 32))[...] = label
    elif path.suffix == ".png":
        save(path, label)
    else:
        tifffile.imwrite(path, label)
    fragment = open_fragment(tmp_path / "2023")
    np.testing.assert_array_equal(fragment.label[...], label > 0)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_all_four_planes_are_told_apart(tmp_path, suffix):
    write_layers(tmp_path / "2023" / "layers", volume())
    rng = np.random.default_rng(3)
    want = {k: rng.random(SHAPE[1:]) > 0.5 for k in ("mask", "inklabels", "supervision_mask", "validation_mask")}
    for kind, plane in want.items():
        path = tmp_path / "2023" / f"2023_{kind}{suffix}"
        if suffix == ".png":
            save(path, plane.astype(np.uint8) * 255)
        else:
            tifffile.imwrite(path, plane.astype(np.uint8))
    fragment = open_fragment(tmp_path / "2023")
    np.testing.assert_array_equal(fragment.papyrus[...], want["mask"])
    np.testing.assert_array_equal(fragment.label[...], want["inklabels"])
    np.testing.assert_array_equal(fragment.supervised[...], want["supervision_mask"])
    np.testing.assert_array_equal(fragment.validation[...], want["validation_mask"])


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
def test_mask_png_of_every_kind(tmp_path, mode):
    mask = planes()["mask"]
    write_layers(tmp_path / "1" / "surface_volume", volume())
    picture = Image.fromarray(mask.astype(np.uint16) * 3) if mode == "I;16" else Image.fromarray(mask).convert(mode)
    picture.save(tmp_path / "1" / "mask.png")
    fragment = open_fragment(tmp_path / "1")
    np.testing.assert_array_equal(fragment.papyrus[...], mask > 0)
    assert fragment.papyrus[3:5, 7].shape == (2,)


def test_plane_beyond_pillows_limit_opens_and_leaves_the_limit_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    write_layers(tmp_path / "1" / "surface_volume", volume())
    save(tmp_path / "1" / "mask.png", planes()["mask"])
    np.testing.assert_array_equal(open_fragment(tmp_path / "1").papyrus[...], planes()["mask"] > 0)
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_only_touched_segments_are_decoded(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "x.tif", volume(), tile=(16, 16), compression="zlib")
    fragment = open_fragment(tmp_path / "x.tif")
    touched = []
    decode = tiff.SegmentedPage._segment
    monkeypatch.setattr(
        tiff.SegmentedPage, "_segment", lambda s, f, place: touched.append(place) or decode(s, f, place)
    )
    fragment.read(18, 30, 17, 31, 2, 4)
    assert touched == [(1, 1), (1, 1)]


def test_voxel_size_from_tiff_tags(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", volume(), resolution=(1e4 / 3.24, 1e4 / 3.24), resolutionunit="CENTIMETER")
    assert open_fragment(tmp_path / "x.tif").voxel_um == pytest.approx(3.24, rel=1e-3)
    tifffile.imwrite(tmp_path / "x.tif", volume(), resolution=(72, 72), resolutionunit="INCH")
    assert open_fragment(tmp_path / "x.tif").voxel_um is None


def test_labels_without_layers_open(tmp_path):
    save(tmp_path / "a" / "mask.png", planes()["mask"])
    save(tmp_path / "a" / "inklabels.png", planes()["inklabels"])
    fragment = open_fragment(tmp_path / "a")
    assert fragment.volume is None
    assert fragment.depth == 0
    assert fragment.shape == SHAPE[1:]
    with pytest.raises(ValueError, match="labels without layers"):
        fragment.read(0, 4, 0, 4, 0, 4)


def test_folder_of_kaggle_fragments_expands_in_order(tmp_path):
    for name in ("10", "2", "1"):
        write_layers(tmp_path / "train" / name / "surface_volume", volume())
    assert list(open_fragments([tmp_path / "train"])) == ["1", "2", "10"]
    with pytest.raises(ValueError, match=r"3 fragments \(1, 2, 10\)"):
        open_fragment(tmp_path / "train")
    write_layers(tmp_path / "test" / "a" / "surface_volume", volume())
    assert list(open_fragments([tmp_path])) == ["a", "1", "2", "10"]


@pytest.mark.parametrize("labels", ["", "labels/"])
def test_folder_of_segments_with_their_labels_beside_them_expands(tmp_path, labels):
    for name in ("20231", "20232"):
        write_layers(tmp_path / name / "layers", volume())
        save(tmp_path / f"{labels}{name}_inklabels.png", planes()["inklabels"])
    found = open_fragments([tmp_path])
    assert list(found) == ["20231", "20232"]
    assert all(fragment.label is not None for fragment in found.values())


@pytest.mark.parametrize("compression", [None, "group4", "tiff_lzw"])
def test_mask_tiff_of_one_bit(tmp_path, compression):
    write_layers(tmp_path / "1" / "surface_volume", volume())
    mask = planes()["mask"]
    Image.fromarray(mask).convert("1").save(tmp_path / "1" / "mask.tif", compression=compression)
    np.testing.assert_array_equal(open_fragment(tmp_path / "1").papyrus[...], mask > 0)


def test_group_without_levels_names_its_arrays(tmp_path):
    group = zarr.create_group(tmp_path / "x.zarr")
    for name in ("a", "b"):
        group.create_array(name, shape=SHAPE, dtype="uint8", chunks=SHAPE)
    with pytest.raises(ValueError, match="arrays a, b; name one"):
        open_fragment(tmp_path / "x.zarr")
    assert open_fragment(tmp_path / "x.zarr" / "b").shape == SHAPE[1:]


# Bad input: what is wrong, where, and what to do.


def test_missing_layer_is_named(tmp_path):
    path = segment_raw(tmp_path, volume())
    (path / "layers" / "02.tif").unlink()
    with pytest.raises(ValueError, match=r"layers 00…04 but 02 is missing"):
        open_fragment(path)


def test_layers_of_two_sizes_are_refused(tmp_path):
    path = segment_raw(tmp_path, volume())
    tifffile.imwrite(path / "layers" / "03.tif", volume()[0, :60])
    with pytest.raises(ValueError, match=r"two sizes: 00.tif is 70×90, 03.tif is 60×90"):
        open_fragment(path)


def test_layers_of_two_dtypes_are_refused(tmp_path):
    path = segment_raw(tmp_path, volume())
    tifffile.imwrite(path / "layers" / "03.tif", volume(np.uint8)[0])
    with pytest.raises(ValueError, match=r"two dtypes: 00.tif is uint16, 03.tif is uint8"):
        open_fragment(path)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16), "compression": "zlib"}])
@pytest.mark.parametrize("keep", [0.7, 0.001, 0.0])
def test_truncated_tiff_is_refused_when_it_is_opened(tmp_path, options, keep):
    write_layers(tmp_path / "seg" / "layers", volume(), **options)
    path = tmp_path / "seg" / "layers" / "03.tif"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ValueError, match=r"03\.tif: .*truncated"):
        open_fragment(tmp_path / "seg")


def test_truncated_tiff_stack_is_refused(tmp_path):
    path = tiff_pages(tmp_path, volume())
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="truncated"):
        open_fragment(path)


def test_truncated_png_is_refused_when_it_is_first_read(tmp_path):
    write_layers(tmp_path / "1" / "surface_volume", volume())
    save(tmp_path / "1" / "mask.png", planes()["mask"])
    path = tmp_path / "1" / "mask.png"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"mask\.png: cannot be decoded"):
        open_fragment(tmp_path / "1").papyrus[...]
    path.write_bytes(b"no picture at all")
    with pytest.raises(ValueError, match="not a readable PNG"):
        open_fragment(tmp_path / "1")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".zarr"])
def test_mask_of_another_shape_is_refused_without_decoding_it(tmp_path, suffix):
    write_layers(tmp_path / "2023" / "layers", volume())
    path = tmp_path / "2023" / f"2023_mask{suffix}"
    mask = np.full((70, 91), 255, np.uint8)
    if suffix == ".png":
        save(path, mask)
    elif suffix == ".tif":
        tifffile.imwrite(path, mask)
    else:
        zarr.create_array(path, shape=mask.shape, dtype="uint8", chunks=(32, 32))
    with pytest.raises(ValueError, match=r"2023_mask.*: is 70×91 px, the layers are 70×90 px"):
        open_fragment(tmp_path / "2023")


@pytest.mark.parametrize("dtype", ["float32", "int16", "uint32"])
def test_unknown_dtype_is_refused_in_tiff_and_zarr(tmp_path, dtype):
    data = np.zeros(SHAPE, dtype)
    with pytest.raises(ValueError, match=f"unknown dtype {dtype}; expected uint8 or uint16"):
        open_fragment(segment_raw(tmp_path, data))
    with pytest.raises(ValueError, match=f"unknown dtype {dtype}; expected uint8 or uint16"):
        open_fragment(zarr_v3(tmp_path, data))


def test_colour_layers_are_refused(tmp_path):
    write_layers(tmp_path / "seg" / "layers", np.zeros((3, 8, 8, 3), np.uint8), ".png")
    with pytest.raises(ValueError, match="one grey plane"):
        open_fragment(tmp_path / "seg")


def test_damaged_zarr_metadata_are_named(tmp_path):
    path = zarr_v3(tmp_path, volume())
    (path / "zarr.json").write_text("{")
    with pytest.raises(ValueError, match=r"zarr\.json: not readable as JSON"):
        open_fragment(path)
    (path / "zarr.json").write_text(json.dumps({"node_type": "array", "shape": [2, 2, 2], "data_type": "complex64"}))
    with pytest.raises(ValueError, match="unknown dtype complex64"):
        open_fragment(path)


def test_zarr_chunk_that_is_cut_short_is_named(tmp_path):
    path = zarr_v2(tmp_path, volume())
    chunk = next(p for p in path.iterdir() if p.name.startswith("0"))
    chunk.write_bytes(chunk.read_bytes()[:20])
    with pytest.raises(ValueError, match="cannot be decoded"):
        open_fragment(path).volume[...]

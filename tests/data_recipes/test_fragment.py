"""What a Fragment promises whatever its format: reading beyond its edges, pickling, settings, bounded descriptors."""

from __future__ import annotations

import pickle
import resource
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from data_recipes.convert import convert
from data_recipes.formats import arrays
from data_recipes.fragment import Fragment, absolute_data, open_fragment, open_fragments

DATA = np.arange(6 * 20 * 30, dtype=np.uint16).reshape(6, 20, 30)


@pytest.fixture
def segment(tmp_path) -> Path:
    (tmp_path / "seg" / "layers").mkdir(parents=True)
    for z, layer in enumerate(DATA):
        tifffile.imwrite(tmp_path / "seg" / "layers" / f"{z:02}.tif", layer)
    label = np.zeros((20, 30), np.uint8)
    label[5:9, 5:9], label[10:15, 2:9] = 128, 255
    Image.fromarray(label).save(tmp_path / "seg" / "seg_inklabels.png")
    return tmp_path / "seg"


@pytest.mark.parametrize(
    "box",
    [(-4, 6, -3, 8, 1, 3), (15, 26, 25, 40, 0, 6), (-50, -40, 0, 5, 2, 3), (0, 4, 90, 99, 2, 3), (0, 20, 0, 30, 0, 6)],
)
def test_pixels_outside_are_replicated_from_the_edge(segment, box):
    y0, y1, x0, x1, z0, z1 = box
    ys, xs = np.clip(np.arange(y0, y1), 0, 19), np.clip(np.arange(x0, x1), 0, 29)
    got = open_fragment(segment).read(*box)
    np.testing.assert_array_equal(got, DATA[z0:z1][:, ys][:, :, xs])


@pytest.mark.parametrize(("z0", "z1"), [(-3, 2), (4, 9), (-2, 9), (8, 11), (-9, -4)])
def test_layers_outside_are_replicated_with_one_warning(segment, z0, z1):
    fragment = open_fragment(segment)
    with pytest.warns(UserWarning, match="outermost layer is repeated"):
        got = fragment.read(2, 9, 3, 9, z0, z1)
    np.testing.assert_array_equal(got, DATA[np.clip(np.arange(z0, z1), 0, 5)][:, 2:9, 3:9])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fragment.read(2, 9, 3, 9, z0, z1)


def test_empty_box_is_refused(segment):
    with pytest.raises(ValueError, match="empty box"):
        open_fragment(segment).read(4, 4, 0, 5, 0, 1)


def test_pickle_carries_the_path_and_the_name_alone(segment):
    fragment = open_fragment(segment, name="other")
    sent = pickle.dumps(fragment)
    assert len(sent) < 1000
    back = pickle.loads(sent)
    assert isinstance(back, Fragment)
    assert back.name == "other"
    np.testing.assert_array_equal(back.read(0, 20, 0, 30, 0, 6), DATA)


def test_what_is_unknown_is_announced(segment):
    fragment = open_fragment(segment)
    assert fragment.unknown == ("voxel_um", "direction", "center_layer")
    assert (fragment.direction, fragment.center_layer) == ("forward", 3)
    for word in ("voxel size", "direction", "centre layer", "papyrus mask", "supervision mask"):
        assert any(word in note for note in fragment.notes), word
    assert fragment.papyrus[...].all()
    assert fragment.supervised[2:4, 7].all()


def test_fragment_yaml_states_what_files_cannot(segment):
    (segment / "fragment.yaml").write_text("voxel_um: 7.91\ndirection: reverse\ncenter_layer: 2\nname: scroll\n")
    fragment = open_fragment(segment)
    assert (fragment.voxel_um, fragment.direction, fragment.center_layer) == (7.91, "reverse", 2)
    assert fragment.name == "scroll"
    assert fragment.unknown == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("voxel: 7.91", r"unknown key 'voxel'; nearest is 'voxel_um' \(allowed: name, voxel_um"),
        ("voxel_um: -1", "voxel_um: .*greater than 0"),
        ("direction: backwards", "direction: .*forward.*reverse"),
        ("center_layer: 6", "center_layer 6 is stated, the volume has layers 0 to 5"),
        ("- a list", "expected lines of `key: value`"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_mistakes_in_fragment_yaml_are_named(segment, text, message):
    (segment / "fragment.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_fragment(segment)


def test_label_values_give_classes(segment):
    assert set(np.unique(open_fragment(segment).label[...])) == {0, 1}
    (segment / "fragment.yaml").write_text("label_values: {0: 0, 128: 2, 255: 1}")
    label = open_fragment(segment).label
    assert label.dtype == np.uint8
    assert (label[6, 6], label[11, 4], label[0, 0]) == (2, 1, 0)
    (segment / "fragment.yaml").write_text("label_values: {0: 0, 255: 1}")
    with pytest.raises(ValueError, match=r"holds values \[128\]"):
        open_fragment(segment).label[...]


def other_label(segment: Path, where: str, shape: tuple[int, int] = (20, 30)) -> None:
    (segment / where).parent.mkdir(exist_ok=True)
    plane = np.zeros(shape, np.uint8)
    plane[5:9, 6:12] = 255
    Image.fromarray(plane).save(segment / where)
    (segment / "fragment.yaml").write_text(f"other_label: {where}\nvoxel_um: 7.91\n")


@pytest.mark.parametrize("where", ["first_try.png", "../old/labels_2021.png"])
def test_a_second_label_is_found_from_the_folder_of_fragment_yaml(segment, where):
    assert open_fragment(segment).other_label is None
    other_label(segment, where)
    fragment = pickle.loads(pickle.dumps(open_fragment(segment)))
    assert fragment.other_label.shape == fragment.shape and fragment.other_label.dtype == np.uint8
    assert fragment.other_label[5:7, 4:8].tolist() == [[0, 0, 1, 1]] * 2
    assert fragment.label[5:7, 4:8].tolist() == [[0, 1, 1, 1]] * 2
    assert fragment.sources["other_label"].name == Path(where).name


def test_a_second_label_that_does_not_fit_or_is_not_there_is_named(segment):
    other_label(segment, "old.png", (20, 31))
    with pytest.raises(ValueError, match=r"old.png: is 20×31 px, the layers are 20×30 px; expected the same"):
        open_fragment(segment)
    (segment / "old.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"fragment.yaml: other_label: old.png: no such file; expected"):
        open_fragment(segment)


def test_no_such_path_names_the_nearest(segment):
    with pytest.raises(FileNotFoundError, match=r"no such path; nearest there: seg"):
        open_fragment(segment.parent / "segg")


def test_data_are_named_from_anywhere(segment, monkeypatch):
    monkeypatch.setenv("HOME", str(segment.parent))
    assert open_fragment("~/seg").path == segment
    assert list(open_fragments(["~"])) == ["seg"]
    monkeypatch.chdir(segment)
    assert absolute_data(["../seg", "~/seg", segment, "phantom:dipole:7"]) == [*[str(segment)] * 3, "phantom:dipole:7"]


def test_empty_folder_and_folder_of_something_else(tmp_path):
    with pytest.raises(ValueError, match="empty folder; expected surface_volume/ or layers/"):
        open_fragment(tmp_path)
    (tmp_path / "letter.txt").write_text("")
    with pytest.raises(ValueError, match="no fragment was recognised"):
        open_fragment(tmp_path)
    (tmp_path / "layers").mkdir()
    with pytest.raises(ValueError, match="no layers; expected numbered images"):
        open_fragment(tmp_path)
    with pytest.raises(ValueError, match="no fragment; expected a TIFF"):
        open_fragment(tmp_path / "letter.txt")


def test_two_fragments_of_one_name_are_refused(segment):
    with pytest.raises(ValueError, match="two fragments are named seg"):
        open_fragments([segment, segment])
    with pytest.raises(ValueError, match="no fragment was named"):
        open_fragments([])


@pytest.fixture
def fragments(tmp_path) -> Path:
    """Two scroll segments, 1 and 2, in one folder."""
    for name in "12":
        (tmp_path / "fragments" / name / "layers").mkdir(parents=True)
        for z, layer in enumerate(DATA):
            tifffile.imwrite(tmp_path / "fragments" / name / "layers" / f"{z:02}.tif", layer)
    return tmp_path / "fragments"


def test_a_conversion_in_another_folder_leaves_two_folders_that_open(fragments):
    convert(fragments / "1", fragments.parent / "zarr" / "1.zarr", progress=False)
    assert list(open_fragments([fragments])) == ["1", "2"]
    assert list(open_fragments([fragments.parent / "zarr"])) == ["1"]
    assert list(open_fragments([fragments / "2", fragments.parent / "zarr"])) == ["2", "1"]


def test_a_fragment_and_its_conversion_are_one(fragments):
    convert(fragments / "1", fragments / "1.zarr", progress=False)
    with pytest.raises(
        ValueError, match=r"1\.zarr is the conversion of .*fragments/1: they are one fragment; give one"
    ):
        open_fragments([fragments])
    assert list(open_fragments([fragments / "1.zarr", fragments / "2"])) == ["1", "2"]
    with pytest.raises(ValueError, match=r"a folder of 3 fragments \(1, 1\.zarr, 2\); name one"):
        open_fragment(fragments)


@pytest.mark.parametrize("moved", [False, True])
def test_a_conversion_under_another_name_is_still_the_same_papyrus(fragments, moved):
    convert(fragments / "1", fragments / "3.zarr", progress=False)
    (fragments / "3.fragment.yaml").write_text("name: three\n")
    if moved:  # to another machine, say
        fragments = fragments.rename(fragments.parent / "elsewhere")
    with pytest.raises(ValueError, match=r"3\.zarr is the conversion of .*/1: they are one fragment; give one"):
        open_fragments([fragments])
    assert list(open_fragments([fragments / "2", fragments / "3.zarr"])) == ["2", "three"]


def test_two_conversions_of_one_fragment_and_a_conversion_of_one_are_the_same_papyrus(fragments):
    convert(fragments / "1", fragments / "a.zarr", progress=False)
    convert(fragments / "1", fragments / "b.zarr", progress=False)
    convert(fragments / "a.zarr", fragments / "c.zarr", progress=False)
    for name in "abc":
        (fragments / f"{name}.fragment.yaml").write_text(f"name: {name}\n")
    with pytest.raises(ValueError, match=r"a\.zarr and .*b\.zarr are conversions of .*/1: they are one fragment"):
        open_fragments([fragments / "a.zarr", fragments / "2", fragments / "b.zarr"])
    with pytest.raises(ValueError, match=r"c\.zarr is the conversion of .*/1: they are one fragment"):
        open_fragments([fragments / "1", fragments / "c.zarr"])


def test_a_fragment_of_the_same_folder_name_elsewhere_is_another_one(fragments, tmp_path):
    convert(fragments / "1", fragments / "a.zarr", progress=False)
    (fragments / "a.fragment.yaml").write_text("name: a\n")
    (tmp_path / "others").mkdir()
    (fragments / "2").rename(tmp_path / "others" / "1")
    assert list(open_fragments([fragments / "a.zarr", tmp_path / "others" / "1"])) == ["a", "1"]


def test_volumes_and_folders_beside_each_other_are_all_fragments(fragments):
    zarr.save_array(fragments / "3.zarr", DATA)
    (fragments / "3.fragment.yaml").write_text("name: three\n")
    assert list(open_fragments([fragments])) == ["1", "2", "three"]
    assert list(open_fragments([fragments.parent])) == ["1", "2", "three"]
    (fragments / "notes").mkdir()  # planes beside a volume are its own
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(fragments / "notes" / "mask.png")
    assert list(open_fragments([fragments])) == ["1", "2", "three"]


def test_an_unfinished_conversion_is_no_fragment(fragments):
    done = convert(fragments / "1", fragments / "1.zarr", progress=False)
    done.rename(fragments / "1.zarr.partial")
    assert list(open_fragments([fragments])) == ["1", "2"]
    with pytest.raises(ValueError, match=r"1\.zarr\.partial: an unfinished conversion; repeat"):
        open_fragment(fragments / "1.zarr.partial")


def test_open_files_stay_few_however_many_layers_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "_open_maps", arrays._OpenMaps())
    monkeypatch.setattr(resource, "getrlimit", lambda which: (64, 64))
    (tmp_path / "seg" / "layers").mkdir(parents=True)
    for z in range(80):
        tifffile.imwrite(tmp_path / "seg" / "layers" / f"{z}.tif", np.full((4, 4), z, np.uint8))
    before = len(list(Path("/proc/self/fd").iterdir()))
    fragment = open_fragment(tmp_path / "seg")
    for _ in range(2):
        assert (fragment.read(0, 4, 0, 4, 0, 80)[:, 0, 0] == np.arange(80)).all()
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 20


def test_slices_follow_numpy_and_are_own_copies(segment):
    volume = open_fragment(segment).volume
    np.testing.assert_array_equal(np.asarray(volume), DATA)
    assert volume[2:2].shape == (0, 20, 30)
    assert volume[:, 50:60, :].shape == (6, 0, 30)
    got = volume[1]
    got[...] = 0
    np.testing.assert_array_equal(volume[1], DATA[1])
    with pytest.raises(IndexError, match="outside axis 0 of size 6"):
        volume[6]
    with pytest.raises(IndexError, match="negative step"):
        volume[::-1]


def test_real_scroll_tile_opens_as_its_readme_says(real_tile):
    fragment = open_fragment(real_tile)
    assert fragment.volume is not None
    assert fragment.volume.shape == (13, 2000, 2000)
    assert fragment.volume.dtype == np.uint8
    assert fragment.label is not None
    assert fragment.label[...].mean() == pytest.approx(0.249, abs=0.001)
    assert fragment.papyrus[...].all()
    first = tifffile.imread(real_tile / "layers" / "04.tif")
    np.testing.assert_array_equal(fragment.read(100, 300, 900, 1100, 4, 5)[0], first[100:300, 900:1100])


def test_real_kaggle_labels_open_without_layers(kaggle_labels):
    fragments = open_fragments([kaggle_labels])
    assert {n: f.shape for n, f in fragments.items()} == {"1": (8181, 6330), "2": (14830, 9506), "3": (7606, 5249)}
    assert all(f.volume is None and f.voxel_um == 3.24 for f in fragments.values())

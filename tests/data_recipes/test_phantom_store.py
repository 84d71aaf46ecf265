"""Phantoms on disk: the cache, the layout, what a specification may say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from data_recipes.phantom import VERSION, cache_folder, make_phantom, parse_spec, phantom_fragment, store

SPEC = "phantom:dipole:1003:160x192"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def folder(home, monkeypatch) -> Path:
    monkeypatch.setenv("INKZOO_CACHE", str(home))
    return phantom_fragment(SPEC)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("phantom:dipole:7", ("dipole", 7, 768, 1024)),
        ("phantom:crackle:1000:512", ("crackle", 1000, 384, 512)),
        ("phantom:dipole:7:300x400", ("dipole", 7, 300, 400)),
    ],
)
def test_specification_names_ink_seed_and_size(spec, expected):
    assert parse_spec(spec) == expected


@pytest.mark.parametrize("spec", ["phantom:dipole", "phantom:gold:1", "phantom:dipole:x", "phantom:dipole:1:2x"])
def test_unreadable_specification_says_what_is_expected(spec):
    with pytest.raises(ValueError, match="expected phantom:<ink>:<seed>"):
        parse_spec(spec)


def test_files_hold_what_was_made(folder):
    made = make_phantom(1003, height=160, width=192)
    assert folder.parent.name == f"v{VERSION}"
    layers = [tifffile.imread(path) for path in sorted((folder / "layers").glob("*.tif"))]
    assert np.array_equal(np.stack(layers), made.volume)
    with tifffile.TiffFile(folder / "layers/00.tif") as file:
        assert file.pages.first.is_memmappable
    planes = {"mask": made.papyrus, "inklabels": made.exact, "exact": made.exact, "drawn": made.drawn}
    for kind, plane in planes.items():
        with Image.open(folder / f"{folder.name}_{kind}.png") as image:
            assert np.array_equal(np.asarray(image) > 0, plane)
    facts = yaml.safe_load((folder / "fragment.yaml").read_text())
    assert facts == {"name": folder.name, "voxel_um": 7.91, "direction": "forward", "center_layer": 8}
    record = json.loads((folder / "phantom.json").read_text())
    assert (record["seed"], record["ink"], record["purpose"], record["label"]) == (1003, "dipole", "test", "exact")
    assert 0.5 < record["ceiling"]["auc"] < 1


def test_second_call_reads_the_cache_and_nothing_unfinished_is_left(folder, monkeypatch):
    def fail(*_args, **_options):
        raise AssertionError("generated again")

    monkeypatch.setattr(store, "make_phantom", fail)
    assert phantom_fragment(SPEC) == folder
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_failure_while_writing_leaves_no_folder(tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise OSError("no space left on device")

    monkeypatch.setenv("INKZOO_CACHE", str(tmp_path))
    monkeypatch.setattr(store.tifffile, "imwrite", fail)
    with pytest.raises(OSError, match="no space"):
        phantom_fragment(SPEC)
    assert not [path for path in tmp_path.rglob("*") if "phantom" in path.name]


def test_a_cache_that_cannot_be_written_is_found_before_anything_is_made(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("INKZOO_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(store, "make_phantom", None)
    with pytest.raises(ValueError, match=r"^\$INKZOO_CACHE .*file is a file; give a folder"):
        phantom_fragment(SPEC)


def test_cache_lies_in_the_users_cache_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("INKZOO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "inkzoo"


def test_it_opens_like_any_other_segment(folder):
    from data_recipes.fragment import open_fragment

    fragment = open_fragment(folder)
    assert fragment.volume is not None
    assert fragment.volume.shape == (16, 160, 192)
    assert fragment.label is not None
    assert fragment.label[0:160, 0:192].any()
    assert (fragment.voxel_um, fragment.direction, fragment.center_layer) == (7.91, "forward", 8)


def test_a_phantom_for_testing_is_never_trained_on_whatever_its_format(folder, tmp_path, monkeypatch):
    from data_recipes.convert import convert
    from data_recipes.fragment import open_fragment, open_fragments, refuse_test_phantoms

    copy = convert(folder, tmp_path / "copy.zarr", progress=False)
    for path in (folder, folder / "layers", copy):
        fragments = open_fragments([path])
        (name,) = fragments
        assert fragments[name].purpose == "test"
        with pytest.raises(ValueError, match=f"{name} is a test phantom .* seeds below 1000"):
            refuse_test_phantoms(fragments, [name])
        refuse_test_phantoms(fragments, [])
    monkeypatch.setenv("INKZOO_CACHE", str(tmp_path))
    assert open_fragment("phantom:dipole:3:160x192").purpose == "development"
    refuse_test_phantoms(open_fragments(["phantom:dipole:3:160x192"]), ["phantom-dipole-3-160x192"])

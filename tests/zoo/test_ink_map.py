"""Ink maps of every kind, from `zoo.predict` and from elsewhere, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image, PngImagePlugin

from zoo.ink_map import open_ink_map, stored_form

SHAPE = (37, 53)
PROVENANCE = {"fragment": "one", "threshold": 0.4, "checkpoints": [{"path": "a", "sha256": "b", "model": "c"}]}


def values(dtype: str = "uint8") -> np.ndarray:
    prob = np.random.default_rng(0).random(SHAPE)
    return (prob * 255).round().astype(dtype) if dtype == "uint8" else prob.astype(dtype)


def write_zarr(path: Path, array: np.ndarray, provenance: dict | None, *, version: int = 3) -> Path:
    multiscale = {"datasets": [{"path": "0"}], "axes": [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]}
    attributes = {"ome": {"version": "0.5", "multiscales": [multiscale]}} if version == 3 else {}
    attributes |= {"multiscales": [multiscale | {"version": "0.4"}]} if version == 2 else {}
    attributes |= stored_form(provenance) if provenance is not None else {}
    group = zarr.create_group(path, zarr_format=version, attributes=attributes)
    group.create_array("0", data=array, chunks=(16, 16))
    return path


def write_tiff(path: Path, array: np.ndarray, provenance: dict | None) -> Path:
    described = {"description": json.dumps(stored_form(provenance))} if provenance is not None else {}
    tifffile.imwrite(path, array, bigtiff=True, tile=(16, 16), compression="zlib", metadata=None, **described)
    return path


def write_png(path: Path, array: np.ndarray, provenance: dict | None, *, chunk: str = "iTXt") -> Path:
    text = PngImagePlugin.PngInfo()
    if provenance is not None:
        said = json.dumps(stored_form(provenance))
        if chunk == "iTXt":
            text.add_itxt("inkzoo", said, zip=True)
        else:
            text.add_text("inkzoo", said, zip=chunk == "zTXt")
    Image.fromarray(array).save(path, pnginfo=text)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
@pytest.mark.parametrize("kind", ["zarr v3", "zarr v2", "tiff"])
def test_what_predict_wrote_comes_back_with_its_provenance(tmp_path, kind, dtype):
    stored = values(dtype)
    if kind == "tiff":
        path = write_tiff(tmp_path / "map.tif", stored, PROVENANCE)
    else:
        path = write_zarr(tmp_path / "map.zarr", stored, PROVENANCE, version=int(kind[-1]))
    found = open_ink_map(path)
    assert found.provenance == PROVENANCE and found.threshold == 0.4 and not found.notes
    expected = stored / np.float32(255) if dtype == "uint8" else stored.astype(np.float32)
    got = found.read(3, 30, 10, 53)
    assert got.dtype == np.float32 and (got == expected[3:30, 10:53]).all() and found.shape == SHAPE


@pytest.mark.parametrize("chunk", ["iTXt", "tEXt", "zTXt"])
def test_a_png_keeps_its_provenance_in_any_text_chunk(tmp_path, chunk):
    provenance = PROVENANCE | {"fragment": "one"}
    found = open_ink_map(write_png(tmp_path / "map.png", values(), provenance, chunk=chunk))
    assert found.provenance == provenance
    assert (found.read(0, *SHAPE[:1], 0, SHAPE[1]) == values() / np.float32(255)).all()


def test_a_text_chunk_behind_the_pixels_is_found_too(tmp_path):
    path = write_png(tmp_path / "map.png", values(), PROVENANCE)
    whole = path.read_bytes()
    begin = whole.index(b"iTXt") - 4
    end = begin + 12 + int.from_bytes(whole[begin : begin + 4], "big")
    last = whole.index(b"IEND") - 4
    path.write_bytes(whole[:begin] + whole[end:last] + whole[begin:end] + whole[last:])
    assert open_ink_map(path).provenance == PROVENANCE


def test_no_threshold_is_stored_as_none(tmp_path):
    assert open_ink_map(write_zarr(tmp_path / "m.zarr", values(), PROVENANCE | {"threshold": None})).threshold is None


@pytest.mark.parametrize(
    ("name", "array", "expected", "told"),
    [
        ("m.npy", np.linspace(0, 1, 12, dtype=np.float64).reshape(3, 4), None, None),
        ("m.npy", np.linspace(0, 1, 12, dtype=np.float16).reshape(3, 4), None, None),
        ("m.npy", np.asfortranarray(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)), None, None),
        ("m.npy", np.eye(3, 4, dtype=bool), np.eye(3, 4), None),
        ("m.npy", np.eye(3, 4, dtype=np.uint8), np.eye(3, 4), "a mask"),
        ("m.npy", np.eye(3, 4, dtype=np.uint16), np.eye(3, 4), "a mask"),
        ("m.npy", np.eye(3, 4, dtype=np.uint16) * 13107, np.eye(3, 4) / 5, "probability × 65535"),
        ("m.png", np.eye(3, 4, dtype=np.uint8) * 255, np.eye(3, 4), "probability × 255"),
        ("m.png", np.eye(3, 4, dtype=np.uint16) * 65535, np.eye(3, 4), "probability × 65535"),
        ("m.tif", np.eye(3, 4, dtype=np.uint8) * 51, np.eye(3, 4) / 5, "probability × 255"),
        ("m.tif", np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4), None, None),
        ("m.zarr", np.eye(3, 4, dtype=np.uint8), np.eye(3, 4), "a mask"),
    ],
)
def test_a_map_from_elsewhere_is_taken_as_it_is_and_that_is_said(tmp_path, name, array, expected, told):
    path = tmp_path / name
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, array)
    elif path.suffix == ".png":
        Image.fromarray(array).save(path)
    else:
        write_zarr(path, array, None)
    found = open_ink_map(path)
    assert found.threshold is None and found.provenance == {}
    assert "another tool" in found.notes[0] and (told is None or told in found.notes[1])
    np.testing.assert_allclose(found.read(0, 3, 0, 4), array if expected is None else expected, atol=1e-7)


def test_a_map_that_predict_wrote_is_never_taken_for_a_mask(tmp_path):
    found = open_ink_map(write_zarr(tmp_path / "m.zarr", np.eye(3, 4, dtype=np.uint8), PROVENANCE))
    np.testing.assert_allclose(found.read(0, 3, 0, 4), np.eye(3, 4) / 255)


def test_a_plain_zarr_array_and_a_level_by_itself_open(tmp_path):
    zarr.create_array(tmp_path / "plain.zarr", data=values(), chunks=(16, 16))
    assert open_ink_map(tmp_path / "plain.zarr").shape == SHAPE
    level = write_zarr(tmp_path / "m.zarr", values(), PROVENANCE) / "0"
    assert open_ink_map(level).provenance == PROVENANCE


def _bad(tmp_path: Path, what: str) -> Path:
    path = tmp_path / "bad.npy"
    match what:
        case "missing":
            return path
        case "a folder":
            path = tmp_path / "bad"
            path.mkdir()
        case "a text file":
            path = tmp_path / "bad.txt"
            path.write_text("no")
        case "objects":
            np.save(path, np.array([[None]]), allow_pickle=True)
        case "cut short":
            np.save(path, values("float32"))
            path.write_bytes(path.read_bytes()[:-100])
        case "no npy":
            path.write_bytes(b"nothing of the kind")
        case "signed":
            np.save(path, np.zeros((3, 4), np.int16))
        case "empty":
            np.save(path, np.zeros((0, 4), np.uint8))
        case "a volume":
            np.save(path, np.zeros((5, 3, 7), np.uint8))
        case "colour":
            path = tmp_path / "bad.png"
            Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(path)
        case "no png":
            path = tmp_path / "bad.png"
            path.write_bytes(b"nothing of the kind")
        case "threshold":
            path = write_zarr(tmp_path / "bad.zarr", values(), {"threshold": 128})
        case "seen":
            checkpoint = {"path": "a", "sha256": "b", "model": "c", "seen": {"one": [1, 2, 3, 4]}}
            path = write_zarr(tmp_path / "bad.zarr", values(), {"checkpoints": [checkpoint]})
        case "provenance":
            path = tmp_path / "bad.tif"
            tifffile.imwrite(path, values(), description=json.dumps({"inkzoo": {"prediction": 3}}), metadata=None)
    return path


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "no such prediction"),
        ("a folder", "a folder that is no zarr"),
        ("a text file", "not a prediction; expected an OME-Zarr group"),
        ("objects", "not a readable .npy"),
        ("cut short", "not a readable .npy"),
        ("no npy", "not a readable .npy"),
        ("signed", "holds int16"),
        ("empty", "no pixels"),
        ("a volume", "5×3×7"),
        ("colour", "colour image"),
        ("no png", "not a readable PNG"),
        ("threshold", "threshold 128"),
        ("seen", "for each fragment a list of"),
        ("provenance", "provenance is int"),
    ],
)
def test_anything_else_is_one_clear_error(tmp_path, what, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_ink_map(_bad(tmp_path, what))


def test_a_box_outside_the_map_is_refused(tmp_path):
    np.save(tmp_path / "m.npy", values("float32"))
    for box in ((0, 38, 0, 53), (-1, 3, 0, 3), (3, 3, 0, 3)):
        with pytest.raises(ValueError, match="of 37×53"):
            open_ink_map(tmp_path / "m.npy").read(*box)


def test_of_a_large_map_only_what_is_asked_for_is_read(tmp_path):
    path = tmp_path / "large.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(200_000, 100_000))  # 40 GB, sparse
    assert open_ink_map(path).read(199_000, 199_010, 5, 9).sum() == 0


def test_an_unfinished_map_is_told_by_either_name(tmp_path: Path) -> None:
    record = tmp_path / "m.zarr.partial/.inkzoo"
    (record / "done").mkdir(parents=True)
    (record / "plan.json").write_text(json.dumps({"shape": [300, 520], "shard": 256}))
    (record / "done/0").touch()
    for name in ("m.zarr", "m.zarr.partial"):
        with pytest.raises(
            ValueError, match=r"m.zarr is not finished: 5 of its 6 shards are missing; .*reduce .*m.zarr`"
        ):
            open_ink_map(tmp_path / name)
    for shard in range(1, 6):
        (record / f"done/{shard}").touch()
    with pytest.raises(ValueError, match="all its shards are there, and `python -m zoo.predict reduce"):
        open_ink_map(tmp_path / "m.zarr")
    (record / "plan.json").unlink()
    with pytest.raises(FileNotFoundError, match="no such prediction"):
        open_ink_map(tmp_path / "m.zarr")

"""A converted fragment is the same fragment; an interrupted conversion continues; nothing is ever overwritten."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from data_recipes import convert as module
from data_recipes.convert import convert
from data_recipes.fragment import Fragment, open_fragment

ROOT = Path(__file__).parents[2]


def make_segment(root: Path, dtype=np.uint16, shape=(7, 150, 200)) -> Path:
    rng = np.random.default_rng(0)
    (root / "seg" / "layers").mkdir(parents=True)
    for z in range(shape[0]):
        layer = rng.integers(0, np.iinfo(dtype).max, shape[1:], endpoint=True).astype(dtype)
        tifffile.imwrite(root / "seg" / "layers" / f"{z:02}.tif", layer)
    for kind in ("mask", "inklabels", "supervision_mask", "validation_mask"):
        plane = (rng.random(shape[1:]) > 0.4).astype(np.uint8) * 255
        Image.fromarray(plane).save(root / "seg" / f"seg_{kind}.png")
    return root / "seg"


def assert_same(a: Fragment, b: Fragment) -> None:
    assert (a.name, a.shape, a.depth) == (b.name, b.shape, b.depth)
    assert (a.voxel_um, a.direction, a.center_layer) == (b.voxel_um, b.direction, b.center_layer)
    assert a.unknown == b.unknown
    for one, other in zip(
        (a.volume, a.papyrus, a.label, a.other_label, a.supervised, a.validation),
        (b.volume, b.papyrus, b.label, b.other_label, b.supervised, b.validation),
        strict=True,
    ):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.dtype == other.dtype
            assert one[...].tobytes() == other[...].tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_copy_is_the_same_fragment(tmp_path, dtype):
    src = make_segment(tmp_path, dtype)
    (src / "fragment.yaml").write_text("voxel_um: 7.91\ndirection: reverse\ncenter_layer: 2\n")
    written = convert(src, tmp_path / "out" / "copy.zarr", progress=False)
    assert_same(open_fragment(src), open_fragment(written))
    assert not (tmp_path / "out" / "copy.zarr.partial").exists()


def test_what_was_unknown_stays_unknown_and_absent_planes_stay_absent(tmp_path):
    src = make_segment(tmp_path)
    for kind in ("mask", "supervision_mask", "validation_mask", "inklabels"):
        (src / f"seg_{kind}.png").unlink()
    written = convert(src, tmp_path / "copy.zarr", progress=False)
    copy = open_fragment(written)
    assert_same(open_fragment(src), copy)
    assert copy.unknown == ("voxel_um", "direction", "center_layer")
    assert copy.sources == {}


def test_classes_of_a_label_survive(tmp_path):
    src = make_segment(tmp_path)
    label = np.random.default_rng(1).choice([0, 128, 255], (150, 200)).astype(np.uint8)
    Image.fromarray(label).save(src / "seg_inklabels.png")
    (src / "fragment.yaml").write_text("label_values: {0: 0, 128: 1, 255: 2}")
    assert_same(open_fragment(src), open_fragment(convert(src, tmp_path / "copy.zarr", progress=False)))


def test_a_second_label_goes_along(tmp_path):
    src = make_segment(tmp_path)
    (src / "seg_mask.png").rename(src / "old.png")
    (src / "fragment.yaml").write_text("other_label: old.png")
    copy = open_fragment(convert(src, tmp_path / "copy.zarr", progress=False))
    assert copy.other_label is not None
    assert_same(open_fragment(src), copy)


def test_default_chunks_are_small_and_shards_are_whole_files(tmp_path):
    written = convert(make_segment(tmp_path), tmp_path / "copy.zarr", progress=False)
    array = zarr.open_array(written / "0", mode="r")
    assert array.metadata.zarr_format == 3
    assert array.chunks == (7, 128, 128)
    assert array.shards == (7, 256, 256)
    ome = zarr.open_group(written, mode="r").attrs["ome"]
    assert ome["version"] == "0.5"
    assert ome["multiscales"][0]["datasets"][0]["path"] == "0"


@pytest.mark.parametrize(
    ("depth", "chunk", "shard"), [(1, 1, 1), (13, 13, 13), (20, 10, 20), (65, 13, 65), (100, 15, 75)]
)
def test_a_chunk_holds_as_many_layers_as_a_model_reads_and_a_shard_all(tmp_path, depth, chunk, shard):
    (tmp_path / "a/layers").mkdir(parents=True)
    for number in range(depth):
        tifffile.imwrite(tmp_path / f"a/layers/{number:03}.tif", np.full((20, 20), number, np.uint8))
    array = zarr.open_array(convert(tmp_path / "a", tmp_path / "a.zarr", progress=False) / "0", mode="r")
    assert (array.chunks[0], array.shards[0]) == (chunk, shard)
    assert (array[:, 3, 4] == np.arange(depth)).all()


def test_own_chunks_and_shards(tmp_path):
    src = make_segment(tmp_path)
    written = convert(src, tmp_path / "copy.zarr", chunk=(3, 32, 64), shard=(6, 64, 128), progress=False)
    assert zarr.open_array(written / "0", mode="r").shards == (6, 64, 128)
    assert_same(open_fragment(src), open_fragment(written))
    with pytest.raises(ValueError, match="shard 7×64×128 is no multiple of chunk 3×32×64"):
        convert(src, tmp_path / "b.zarr", chunk=(3, 32, 64), shard=(7, 64, 128), progress=False)
    with pytest.raises(ValueError, match="at least 1"):
        convert(src, tmp_path / "b.zarr", chunk=(0, 32, 64), progress=False)
    written = convert(src, tmp_path / "c.zarr", shard=(28, 128, 128), progress=False)
    assert zarr.open_array(written / "0", mode="r").chunks == (14, 128, 128)


def test_high_byte_and_clip_are_applied_and_stated(tmp_path):
    src = make_segment(tmp_path)
    stored = open_fragment(src).volume[...].astype(float)
    copy = open_fragment(convert(src, tmp_path / "high.zarr", to_uint8="high_byte", progress=False))
    np.testing.assert_array_equal(copy.volume[...], stored // 256)
    assert copy.to_uint8 == "high_byte"
    copy = open_fragment(convert(src, tmp_path / "clip.zarr", to_uint8="clip:1000:60000", progress=False))
    want = np.rint(np.clip((stored - 1000) / 59000, 0, 1) * 255)
    assert np.abs(copy.volume[...] - want).max() <= 1
    assert (copy.volume[...] == want).mean() > 0.999
    assert copy.to_uint8 == "clip:1000:60000"
    attributes = json.loads((tmp_path / "clip.zarr" / "zarr.json").read_text())["attributes"]["inkzoo"]
    assert "clip:1000:60000" in attributes["intensities"]
    assert attributes["source"]["dtype"] == "uint16"


def test_to_uint8_mistakes_are_refused(tmp_path):
    src = make_segment(tmp_path, np.uint8)
    with pytest.raises(ValueError, match="stored as uint8 already"):
        convert(src, tmp_path / "a.zarr", to_uint8="high_byte", progress=False)
    with pytest.raises(ValueError, match="allowed"):
        convert(src, tmp_path / "a.zarr", to_uint8="low_byte", progress=False)
    assert not (tmp_path / "a.zarr.partial").exists()


class Stopped(Exception):
    pass


def fail() -> None:
    raise Stopped


def stop_after(monkeypatch, count: int, how=fail) -> list[tuple[slice, ...]]:
    """Let the source's volume be read `count` times, then `how()`; the boxes that were read."""
    read: list[tuple[slice, ...]] = []
    whole = module.open_fragment

    def opened(src):
        fragment = whole(src)
        inner = fragment.volume._read

        def counted(box):
            if len(read) >= count:
                how()
            read.append(box)
            return inner(box)

        monkeypatch.setattr(fragment.volume, "_read", counted)
        return fragment

    monkeypatch.setattr(module, "open_fragment", opened)
    return read


def test_interrupted_conversion_continues_where_it_stopped(tmp_path, monkeypatch):
    src = make_segment(tmp_path)
    size = {"chunk": (7, 32, 32), "shard": (7, 64, 64)}
    with monkeypatch.context() as patch:
        first = stop_after(patch, 5)
        with pytest.raises(Stopped):
            convert(src, tmp_path / "copy.zarr", progress=False, **size)
        assert len(first) == 5
    assert not (tmp_path / "copy.zarr").exists()
    with monkeypatch.context() as patch:
        rest = stop_after(patch, 1000)
        written = convert(src, tmp_path / "copy.zarr", progress=False, **size)
        assert len(rest) == 3 * 4 - 5
        assert not {str(b) for b in first} & {str(b) for b in rest}
    assert_same(open_fragment(src), open_fragment(written))
    assert not list(written.glob("convert*"))


def test_ctrl_c_lets_the_shard_being_written_finish(tmp_path, monkeypatch):
    src = make_segment(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        read = stop_after(patch, 2, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            convert(src, tmp_path / "copy.zarr", chunk=(7, 32, 32), shard=(7, 64, 64), progress=False)
    assert signal.getsignal(signal.SIGINT) is before
    assert len(read) == 3
    assert (tmp_path / "copy.zarr.partial" / "convert.done").read_text().count("\n") == 3


def test_conversion_begun_otherwise_is_not_continued(tmp_path, monkeypatch):
    src = make_segment(tmp_path)
    with monkeypatch.context() as patch:
        stop_after(patch, 0)
        with pytest.raises(Stopped):
            convert(src, tmp_path / "copy.zarr", progress=False)
    with pytest.raises(ValueError, match=r"begun with another .*to_uint8 \(None → high_byte\); remove it"):
        convert(src, tmp_path / "copy.zarr", to_uint8="high_byte", progress=False)
    tifffile.imwrite(src / "layers" / "00.tif", np.zeros((150, 200), np.uint16))
    with pytest.raises(ValueError, match="begun with another stamp"):
        convert(src, tmp_path / "copy.zarr", progress=False)


def test_two_conversions_at_once_do_not_mix(tmp_path):
    src = make_segment(tmp_path)
    plan = module._plan(open_fragment(src), None, None, None)
    with (
        module._claim(tmp_path / "copy.zarr.partial", plan),
        pytest.raises(ValueError, match="another conversion is writing there"),
    ):
        convert(src, tmp_path / "copy.zarr", progress=False)


def test_destination_is_never_overwritten(tmp_path):
    src = make_segment(tmp_path)
    (tmp_path / "copy.zarr").mkdir()
    with pytest.raises(FileExistsError, match="exists already"):
        convert(src, tmp_path / "copy.zarr", progress=False)
    with pytest.raises(ValueError, match="must end in .zarr"):
        convert(src, tmp_path / "copy", progress=False)


def test_labels_alone_cannot_be_converted(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(tmp_path / "a" / "inklabels.png")
    with pytest.raises(ValueError, match="no volume to convert"):
        convert(tmp_path / "a", tmp_path / "copy.zarr", progress=False)


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-W", "error", "-m", "data_recipes", *map(str, words)]
    wide = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(call, cwd=ROOT, env=wide, capture_output=True, text=True, check=False)


def test_command_converts_and_a_second_time_says_one_line(tmp_path):
    src = make_segment(tmp_path)
    done = command("convert", src, tmp_path / "copy.zarr", "--to-uint8", "high_byte")
    assert done.returncode == 0, done.stderr
    assert "16 bits became 8 by high_byte" in done.stderr
    again = command("convert", src, tmp_path / "copy.zarr")
    assert again.returncode == 2
    assert again.stderr.count("\n") == 1
    assert again.stderr.startswith("error: ")


def test_real_tile_is_the_same_as_zarr(real_tile, tmp_path):
    assert_same(open_fragment(real_tile), open_fragment(convert(real_tile, tmp_path / "copy.zarr", progress=False)))

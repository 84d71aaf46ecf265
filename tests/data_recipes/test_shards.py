"""Chunks read out of a shard by this project are what zarr reads, or damage is named."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

from data_recipes.formats.shards import Shards
from data_recipes.formats.zarr import ZarrArray

SHAPE, CHUNK, SHARD = (13, 70, 90), (8, 16, 16), (8, 32, 48)
CODECS: dict[str, Any] = {
    "none": None,
    "zstd": ZstdCodec(level=1),
    "zstd with checksum": ZstdCodec(level=1, checksum=True),
    "blosc": BloscCodec(cname="lz4", shuffle="bitshuffle"),
    "gzip": GzipCodec(level=1),
    "zstd and crc32c": (ZstdCodec(level=1), Crc32cCodec()),
    "what convert writes": (BloscCodec(cname="lz4", shuffle="bitshuffle"), Crc32cCodec()),
}


def write(path: Path, compressors: Any, dtype: str = "uint8", **more: Any) -> np.ndarray:
    """An array of noise, one shard and one chunk of which were never written."""
    array = zarr.create_array(
        path, shape=SHAPE, dtype=dtype, chunks=CHUNK, shards=SHARD, compressors=compressors, fill_value=7, **more
    )
    values = np.random.default_rng(0).integers(0, 255, SHAPE).astype(dtype)
    values[:8, :32, :48] = 7  # a shard
    values[:8, 32:48, 48:64] = 7  # a chunk
    array[:] = values
    return values


def opened(path: Path) -> Shards:
    found = Shards.of(path, json.loads((path / "zarr.json").read_text()))
    assert found is not None
    return found


def a_shard(path: Path) -> Path:
    return path / "c/0/0/1"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "bool", "float32"])
@pytest.mark.parametrize("codecs", CODECS)
def test_all_of_it_is_what_was_written(tmp_path: Path, codecs: str, dtype: str) -> None:
    values = write(tmp_path / "a", CODECS[codecs], dtype)
    assert not (tmp_path / "a/c/0/0/0").exists() or dtype == "bool"
    found = opened(tmp_path / "a").read(tuple(slice(0, side) for side in SHAPE))
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, values)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shards, np.ndarray]:
    path = tmp_path_factory.mktemp("pair") / "a"
    values = write(path, ZstdCodec(level=1, checksum=True))
    return opened(path), values


@given(data=st.data())
def test_any_box_is_that_of_the_whole(pair: tuple[Shards, np.ndarray], data: st.DataObject) -> None:
    shards, values = pair
    ends = [sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in SHAPE]
    box = tuple(slice(*pair_) for pair_ in ends)
    np.testing.assert_array_equal(shards.read(box), values[box])


def test_a_shard_that_is_cut_off_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a", ZstdCodec(level=1))
    file = a_shard(tmp_path / "a")
    file.write_bytes(file.read_bytes()[:-100])
    array = ZarrArray(tmp_path / "a", SHAPE, np.dtype("uint8"))
    with pytest.raises(ValueError, match=r"c/0/0/1: cannot be decoded .*; damaged\? copy it again"):
        array[:, :32, 48:]


@pytest.mark.parametrize("codecs", ["zstd with checksum", "zstd and crc32c", "what convert writes"])
def test_a_bit_that_flipped_in_a_chunk_is_named(tmp_path: Path, codecs: str) -> None:
    write(tmp_path / "a", CODECS[codecs])
    file = a_shard(tmp_path / "a")
    body = bytearray(file.read_bytes())
    body[1000] ^= 1
    file.write_bytes(body)
    with pytest.raises(ValueError, match="c/0/0/1: cannot be decoded"):
        opened(tmp_path / "a").read((slice(0, 8), slice(0, 32), slice(48, 90)))


def test_a_shard_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    values = write(tmp_path / "a", ZstdCodec(level=1))
    array = ZarrArray(tmp_path / "a", SHAPE, np.dtype("uint8"))
    np.testing.assert_array_equal(array[:], values)
    zarr.open_array(tmp_path / "a", mode="r+")[:] = values // 2
    np.testing.assert_array_equal(array[:], values // 2)


def test_what_is_not_understood_is_left_to_zarr(tmp_path: Path) -> None:
    values = write(tmp_path / "a", None, filters=[TransposeCodec(order=(2, 1, 0))])
    assert Shards.of(tmp_path / "a", json.loads((tmp_path / "a/zarr.json").read_text())) is None
    np.testing.assert_array_equal(ZarrArray(tmp_path / "a", SHAPE, np.dtype("uint8"))[:], values)
    assert Shards.of(tmp_path, {}) is None


def test_an_array_that_was_read_goes_to_another_process_by_its_path(tmp_path: Path) -> None:
    values = write(tmp_path / "a", ZstdCodec(level=1))
    array = ZarrArray(tmp_path / "a", SHAPE, np.dtype("uint8"))
    assert array[3, 40, 50] == values[3, 40, 50]
    sent = pickle.dumps(array)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent)[:], values)

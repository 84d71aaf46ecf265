"""A server that can be made faulty, and the folder that it serves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import zarr

from data_recipes.convert import convert
from data_recipes.formats import transfer
from data_recipes.formats.chunk_cache import cache
from tests.data_recipes.faulty_server import FaultyServer, serving
from tests.data_recipes.remote.served import LAYOUTS, VOLUME


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One array a layout, and `x.zarr`: a phantom's conversion, sharded, with its mask and label."""
    root = tmp_path_factory.mktemp("served")
    for name, layout in LAYOUTS.items():
        zarr.create_array(root / f"{name}.zarr", shape=VOLUME.shape, dtype="u1", **layout)[...] = VOLUME
    convert("phantom:dipole:3:256", root / "x.zarr", progress=False, chunk=(8, 32, 32), shard=(16, 128, 128))
    (root / "bucket").symlink_to(root)
    return root


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    monkeypatch.setenv("INKZOO_REMOTE_PAUSE", "0.001")
    monkeypatch.setenv("INKZOO_REMOTE_TIMEOUT", "20")
    monkeypatch.setenv("INKZOO_REMOTE_TRIES", "3")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    cache.clear()
    with serving(folder) as one:
        yield one
    transfer.close()
    cache.clear()

"""A zarr on a server that fails: each chunk is fetched once, and never a wrong voxel in silence."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr

from data_recipes.formats.chunk_cache import cache
from data_recipes.fragment import open_fragment
from tests.data_recipes.faulty_server import FaultyServer
from tests.data_recipes.remote.served import BOX, FAULTS, LAYOUTS, SHARDED, VOLUME


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_fault_once_is_made_good(server: FaultyServer, layout: str) -> None:
    fragment = open_fragment(f"{server.url}/{layout}.zarr")
    assert fragment.volume is not None
    for fault in FAULTS + ["ignore_range", "wrong_range"] * (layout in SHARDED):
        if fault == "flip" and layout == "raw":
            continue  # nobody can notice: see the note below
        cache.clear()
        server.faults = {f"/{layout}.zarr/[0-9c]*": [fault]}
        server.forget()
        assert np.array_equal(fragment.volume[BOX], VOLUME[BOX]), fault
        assert max(server.asked.values()) > 1, f"{fault} was met"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_fault_for_ever_is_an_error_that_names_the_chunk(server: FaultyServer, layout: str) -> None:
    fragment = open_fragment(f"{server.url}/{layout}.zarr")
    assert fragment.volume is not None
    chunk = f"{layout}.zarr/{'0.1.2' if LAYOUTS[layout]['zarr_format'] == 2 else 'c/0/1/2'}"
    for fault in FAULTS + ["ignore_range", "wrong_range"] * (layout in SHARDED):
        if fault == "flip" and layout == "raw":
            continue
        cache.clear()
        server.faults = {f"/{chunk}": [fault, ...]}
        with pytest.raises((ValueError, OSError), match=f"^{server.url}/{chunk}[: ]") as caught:
            fragment.volume[BOX]
        advice = ("try again later", "upload it again", "serve it from one that knows them")
        assert any(words in str(caught.value) for words in advice)
        elsewhere = np.s_[:, :16, :16]
        assert np.array_equal(fragment.volume[elsewhere], VOLUME[elsewhere]), "the others stay readable"
        server.faults = {}
        assert np.array_equal(fragment.volume[BOX], VOLUME[BOX]), "damage is not kept"


@pytest.mark.parametrize("layout", ["v3", "sharded"])
def test_a_server_that_does_not_answer_is_not_waited_for(
    server: FaultyServer, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fragment = open_fragment(f"{server.url}/{layout}.zarr")
    assert fragment.volume is not None
    server.faults = {f"/{layout}.zarr/c/*": ["delay", ...]}
    monkeypatch.setenv("INKZOO_REMOTE_TIMEOUT", "0.2")
    monkeypatch.setenv("INKZOO_REMOTE_TRIES", "2")
    with pytest.raises(OSError, match=f"{layout}.zarr/c/.*: no answer within 0.2 s .*2 tries"):
        fragment.volume[BOX]
    server.faults = {f"/{layout}.zarr/c/*": ["delay"]}
    server.forget()
    monkeypatch.setenv("INKZOO_REMOTE_TRIES", "20")
    assert np.array_equal(fragment.volume[BOX], VOLUME[BOX])


def test_a_flip_that_nobody_can_notice_is_announced(server: FaultyServer) -> None:
    told = {name: " ".join(open_fragment(f"{server.url}/{name}.zarr").notes) for name in LAYOUTS}
    assert [name for name in told if "no checksum" in told[name]] == ["raw", "blosc"]
    converted = open_fragment(f"{server.url}/x.zarr")
    assert not [note for note in converted.notes if "checksum" in note], "our own conversion carries them"


def test_faults_in_metadata_are_made_good_or_told(server: FaultyServer) -> None:
    server.faults = {"*.json": ["503"], "*.yaml": ["drop"]}
    fragment = open_fragment(f"{server.url}/x.zarr")
    assert fragment.label is not None
    for fault, expected in (("500", "HTTP 500"), ("flip", "not readable as JSON"), ("empty", "not readable as JSON")):
        server.faults = {"/x.zarr/planes/mask/zarr.json": [fault, ...]}
        with pytest.raises((ValueError, OSError), match=f"^{server.url}/x.zarr/planes/mask/zarr.json: .*{expected}"):
            open_fragment(f"{server.url}/x.zarr")


def test_each_chunk_is_fetched_once(server: FaultyServer) -> None:
    for name in ("gzip", "sharded"):
        volume = open_fragment(f"{server.url}/{name}.zarr").volume
        assert volume is not None
        for _ in range(2):
            for y in range(0, 30, 5):
                assert np.array_equal(volume[:, y : y + 9, 3:40], VOLUME[:, y : y + 9, 3:40])
    assert server.chunks() and set(server.chunks().values()) == {1}


def test_a_shard_wanted_whole_is_one_request(server: FaultyServer) -> None:
    volume = open_fragment(f"{server.url}/sharded.zarr").volume
    assert volume is not None
    assert np.array_equal(volume[:, 16:32, 16:32], VOLUME[:, 16:32, 16:32])
    assert server.chunks() == {("/sharded.zarr/c/0/1/1", ""): 1}
    assert np.array_equal(volume[:, 18:21, 17:30], VOLUME[:, 18:21, 17:30])
    assert len(server.chunks()) == 1, "parts of it come from what is kept"


def test_readers_of_one_chunk_share_its_fetch(server: FaultyServer) -> None:
    fragment = open_fragment(f"{server.url}/gzip.zarr")
    assert fragment.volume is not None
    volume, started = fragment.volume, threading.Barrier(6)
    server.faults = {"/gzip.zarr/0.0.0": ["wait", ...]}

    def read(_: int) -> np.ndarray:
        started.wait(20)
        return volume[:, 2:9, 2:9]

    with ThreadPoolExecutor(5) as pool:
        reads = [pool.submit(read, i) for i in range(5)]
        started.wait(20)
        server.go_on.set()
        assert all(np.array_equal(one.result(60), VOLUME[:, 2:9, 2:9]) for one in reads)
    assert server.chunks() == {("/gzip.zarr/0.0.0", ""): 1}


def test_the_cache_is_bounded(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKZOO_CHUNK_CACHE_MB", str(3000 / 2**20))  # two chunks of 1024 bytes
    volume = open_fragment(f"{server.url}/raw.zarr").volume
    assert volume is not None
    for _ in range(2):
        assert np.array_equal(volume[...], VOLUME)
        assert 0 < cache.nbytes <= 3000
    assert max(server.chunks().values()) == 2, "what did not fit was fetched again"


def test_an_absent_chunk_is_the_fill_value_and_asked_for_once(server: FaultyServer, folder: Path) -> None:
    for name, layout in (("holes2", LAYOUTS["gzip"]), ("holes3", LAYOUTS["sharded"])):
        array = zarr.create_array(folder / f"{name}.zarr", shape=VOLUME.shape, dtype="u1", fill_value=9, **layout)
        array[:, :10, :10] = 1
        volume = open_fragment(f"{server.url}/{name}.zarr").volume
        assert volume is not None
        for _ in range(2):
            assert np.array_equal(volume[...], array[...]) and volume[0, 39, 47] == 9
    assert set(server.chunks().values()) == {1}


def test_a_shard_that_vanishes_is_no_fill_value(server: FaultyServer) -> None:
    volume = open_fragment(f"{server.url}/sharded.zarr").volume
    assert volume is not None
    assert np.array_equal(volume[:, :3, :3], VOLUME[:, :3, :3])
    server.faults = {"/sharded.zarr/c/0/0/0": ["404", ...]}
    with pytest.raises(ValueError, match=r"sharded.zarr/c/0/0/0 .*damaged \(it was there, and is not any more\)"):
        volume[:, 9:12, :3]  # another chunk of the shard, whose index is known

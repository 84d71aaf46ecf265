"""A cached tile is the tile, for every process, and a cache that is too large is refused before it is made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data_recipes import tile_cache
from data_recipes.fragment import open_fragments
from data_recipes.recipe import load_recipe
from data_recipes.regions import whole
from data_recipes.sampling import build_table
from data_recipes.tile_cache import CachedTiles, cache_bytes
from data_recipes.tiles import TileDataset, fit_contract


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TileDataset:
    monkeypatch.setenv("INKZOO_CACHE", str(tmp_path))
    fragments = open_fragments(["phantom:dipole:3:192x320"])
    region = {name: (whole(fragment.shape),) for name, fragment in fragments.items()}
    contract = fit_contract(fragments, region, depth=5, tile=32)
    table, _ = build_table(fragments, region, load_recipe("random").with_(tile=32, samples=12), seed=0)
    return TileDataset(fragments, table, contract)


def assert_same(first: dict, second: dict) -> None:
    for key in ("volume", "label", "mask"):
        assert first[key].dtype == second[key].dtype
        assert torch.equal(first[key], second[key]), key


def test_a_tile_is_the_same_when_it_is_read_first_and_when_it_is_kept(dataset: TileDataset) -> None:
    cached = CachedTiles(dataset)
    for _ in range(2):
        for row in range(len(dataset)):
            assert_same(cached[row], dataset[row])


def test_it_is_read_once_whatever_is_done_to_what_was_handed_out(dataset: TileDataset, monkeypatch) -> None:
    cached, reads = CachedTiles(dataset), []
    read = TileDataset.stored
    monkeypatch.setattr(TileDataset, "stored", lambda self, index: reads.append(index) or read(self, index))
    for _ in range(3):
        item = cached[4]
        for key in ("volume", "label", "mask"):
            item[key].zero_()  # augmentation works in place
    assert reads == [4]
    assert_same(cached[4], dataset[4])


def test_what_a_worker_reads_is_kept_for_all(dataset: TileDataset) -> None:
    cached = CachedTiles(dataset)
    loader = DataLoader(cached, batch_size=4, num_workers=1, multiprocessing_context="forkserver")  # type: ignore[arg-type]
    batches = list(loader)
    assert bool(cached._there.all())
    assert_same(
        {k: torch.cat([b[k] for b in batches]) for k in ("volume", "label", "mask")},
        {k: torch.stack([dataset[i][k] for i in range(12)]) for k in ("volume", "label", "mask")},
    )


def test_a_cache_larger_than_half_of_the_free_memory_is_refused(dataset: TileDataset, monkeypatch) -> None:
    assert cache_bytes(dataset) == 12 * 32 * 32 * (5 * np.dtype(dataset.contract.stored_dtype).itemsize + 2)
    monkeypatch.setattr(tile_cache, "free_bytes", lambda: cache_bytes(dataset))
    with pytest.raises(ValueError, match=r"12 tiles take .* half may be used"):
        CachedTiles(dataset)


def test_under_torchrun_the_memory_is_shared_among_the_processes(dataset: TileDataset, monkeypatch) -> None:
    monkeypatch.setattr(tile_cache, "free_bytes", lambda: 6 * cache_bytes(dataset))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert len(CachedTiles(dataset)) == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(ValueError, match=r"in each of 4 processes, and of .* half may be used"):
        CachedTiles(dataset)


def test_tiles_tell_the_task_of_their_fragment_where_there_are_tasks(dataset: TileDataset) -> None:
    (name,) = dataset.table.fragments
    told = TileDataset({name: dataset.fragments[0]}, dataset.table, dataset.contract, {name: 3, "another": 0})
    batch = next(iter(DataLoader(CachedTiles(told), batch_size=4)))  # type: ignore[arg-type]
    assert batch["task"].tolist() == [3, 3, 3, 3] and batch["task"].dtype == torch.int64
    assert "task" not in dataset[0]
    with pytest.raises(ValueError, match=f"no task is given for {name}"):
        TileDataset({name: dataset.fragments[0]}, dataset.table, dataset.contract, {"another": 0})

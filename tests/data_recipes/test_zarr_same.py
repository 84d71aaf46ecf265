"""What is trained on does not depend on the format: the real tile as TIFF and as converted zarr, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data_recipes.build import build
from data_recipes.convert import convert
from data_recipes.fragment import Fragment, open_fragments
from data_recipes.regions import Rect
from data_recipes.tiles import TileDataset, fit_contract

TILE = Path(__file__).parents[3] / "shared" / "data" / "scroll1_tile"
REGION = {"scroll1_tile": (Rect(0, 2000, 0, 1200),)}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    if not TILE.is_dir():
        pytest.skip("the real tile is not on this machine")
    return [TILE, convert(TILE, tmp_path_factory.mktemp("zarr") / "tile.zarr", progress=False)]


@pytest.mark.parametrize("recipe", ["edges_buckets_void", "random"])
def test_the_real_tile_and_its_conversion_give_the_same_table_and_tiles(pair, tmp_path, recipe) -> None:
    tables = [
        build(recipe, [str(path)], tmp_path / f"{number}.csv", tile=96, samples=400) for number, path in enumerate(pair)
    ]
    assert (tmp_path / "0.csv").read_bytes() == (tmp_path / "1.csv").read_bytes()
    assert tables[0] == tables[1]
    assert len(tables[0]) == 400

    datasets = []
    for path, table in zip(pair, tables, strict=True):
        fragments: dict[str, Fragment] = open_fragments([path])
        contract = fit_contract(fragments, REGION, depth=13, tile=96, clip=(0, 220))
        datasets.append(TileDataset(fragments, table, contract))
    assert datasets[0].contract == datasets[1].contract
    for index in range(0, 400, 20):
        one, other = (dataset[index] for dataset in datasets)
        assert one.keys() == other.keys()
        for key in ("volume", "label", "mask"):
            assert torch.equal(one[key], other[key]), (index, key)

"""The suites of the committed boards name models that are there, with options that they take."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import device

from zoo.bench.floors import FLOORS
from zoo.bench.plan import resolve_models
from zoo.bench.suite import load_suite
from zoo.registry import create_model, list_families, model_card

BOARDS = sorted((Path(__file__).resolve().parents[2] / "benchmarks" / "boards").glob("*.yaml"))


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_board_has_every_family_and_each_row_can_be_built(path: Path) -> None:
    suite = load_suite(str(path))
    rows = resolve_models(suite, None, "cpu")
    assert {model_card(row.name).family for row in rows if row.name not in FLOORS} == set(list_families())
    for row in rows:
        if row.name not in FLOORS:
            with device("meta"):
                create_model(row.name, depth=suite.depth, tile=suite.tile, **row.options)
    assert len(suite.seeds) >= 3


@pytest.mark.skipif(not BOARDS, reason="benchmarks/ is part of a checkout only")
def test_the_board_of_the_real_tile_has_enough_rows_in_common_with_the_phantoms_for_transfer() -> None:
    boards = {path.stem: load_suite(str(path)) for path in BOARDS}
    rows = {name: {entry.label or entry.name: entry for entry in suite.models} for name, suite in boards.items()}
    for phantom in ("dipole", "crackle"):
        common = [label for label, entry in rows["scroll1"].items() if rows[phantom].get(label) == entry]
        assert len(common) == len(rows["scroll1"]) >= 10
    tile, line = boards["scroll1"], load_suite("scroll1-rows")
    assert tile.data == [] and tile.split == line.split
    assert (tile.clip, tile.letter_px, tile.depth, tile.recipe) == (line.clip, line.letter_px, line.depth, line.recipe)
    told = ("loss", "steps", "batch_size")
    assert [tile.train[key] for key in told] == [boards["dipole"].train[key] for key in told]

"""The shipped suites hold out what they say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data_recipes.split_spec import build_folds
from zoo.bench.plan import RunSpec, plan_runs, resolve_models
from zoo.bench.suite import ModelEntry, Suite, load_suite
from zoo.bench.sweep import trials
from zoo.configs import list_configs
from zoo.registry import list_models
from zoo.significance import LETTER_PITCH

BOARDS = sorted(map(str, Path(__file__).resolve().parents[2].glob("benchmarks/boards/*.yaml")))
SHAPE = 768, 1024  # of a phantom


def pages(names: list[str], shape: tuple[int, int] = SHAPE) -> dict:
    """Ink and blank papyrus everywhere, in stripes of 8 px."""
    label, everywhere = np.broadcast_to(np.arange(shape[1]) // 8 % 2, shape), np.ones(shape, bool)
    planes = {"shape": shape, "label": label, "papyrus": everywhere, "supervised": everywhere, "volume": None}
    planes |= {"path": Path("nowhere"), "sources": {}, "voxel_um": None, "direction": "forward", "center_layer": 0}
    planes |= {"other_label": None, "validation": None, "to_uint8": None, "depth": 16}
    return {name: SimpleNamespace(name=name, **planes) for name in names}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_four_shots_include_the_one_and_all_else_is_alike(seed: int) -> None:
    one, four = load_suite("dipole-1shot"), load_suite("dipole-4shot")
    differing = {"name", "about", "split"}
    assert one.model_dump(exclude=differing) == four.model_dump(exclude=differing)
    assert one.split.model_copy(update={"shots": 4}) == four.split
    planes = pages([*one.split.train, *one.split.test])
    drawn = []
    for suite in (one, four):
        (fold,) = build_folds(suite.split, planes, buffer=suite.buffer, seed=seed)
        drawn.append({(name, rect) for name, rects in fold.train.items() for rect in rects})
        assert suite.split.shot_px >= suite.tile
    assert [len(squares) for squares in drawn] == [1, 4]
    assert drawn[0] < drawn[1]


def planned(name: str) -> tuple[Suite, list[RunSpec]]:
    """A shipped suite of phantoms with its runs, the fragments made of stripes."""
    suite = load_suite(name)
    planes = pages([*suite.split.train, *suite.split.test])
    models = resolve_models(suite, None, "cpu")
    given = {"data": suite.data, "device": "cpu", "seeds": suite.seeds, "folds": [], "train": {}}
    return suite, plan_runs(suite, models, planes, **given)


def test_half_and_double_budget_run_for_every_trained_row_and_once_is_what_is_ranked() -> None:
    suite, specs = planned("dipole-budgets")
    steps = {spec.budget: spec.train["steps"] for spec in specs if not spec.floor}
    assert steps == {0.5: 62, 1: 125, 2: 250}
    for row in ("sam_tiny", "repmode_tiny", "zmean"):
        assert {spec.budget for spec in specs if spec.row == row} == {0.5, 1, 2}
    assert suite.split == load_suite("quick").split


def test_a_sweep_gives_every_trained_row_the_same_trials_away_from_test() -> None:
    suite, specs = planned("dipole-sweep")
    made = trials(specs, suite.sweep)
    tried = {row: [one.train["lr"] for one in made if one.row.startswith(row)] for row in ("sam", "repmode", "zmean")}
    assert list(tried.values()) == [[5e-4, 1e-3, 2e-3]] * 3
    assert len(made) == 9
    assert not {name for trial in made for name in trial.test_rects} & set(suite.split.test)


@pytest.mark.parametrize("name", [*list_configs("suites"), *BOARDS])
def test_blocks_are_as_wide_as_a_letter_phantoms_or_real(name: str) -> None:
    suite = load_suite(name)
    phantoms = bool(suite.data) and all(item.startswith("phantom:") for item in suite.data)
    assert suite.letter_px == (128 if phantoms else LETTER_PITCH)


def test_a_suite_that_does_not_say_takes_the_pitch_of_real_letters() -> None:
    assert Suite(name="mine", about="a", models=[ModelEntry(name="sam")]).letter_px == LETTER_PITCH


def test_a_line_is_held_out_with_a_tile_around_it_and_lines_on_both_sides_are_trained_on() -> None:
    suite = load_suite("dipole-line")
    (fold,) = build_folds(suite.split, pages(list(suite.split.train)), buffer=suite.buffer, seed=0)
    for name, (line,) in fold.test.items():
        assert 100 < line.height < 128
        assert line.width == SHAPE[1]
        assert all(rect.y1 <= line.y0 - suite.tile or rect.y0 >= line.y1 + suite.tile for rect in fold.train[name])
        assert {rect.y0 < line.y0 for rect in fold.train[name]} == {True, False}
        assert all(min(rect.height, rect.width) >= suite.tile for rect in fold.train[name])


def test_ones_own_fragments_are_held_out_in_turn_with_every_floor_and_three_seeds() -> None:
    suite = load_suite("fragments")
    assert suite.data == []
    assert {*suite.floors} == {"allink", "layout", *list_models("zfloor")}
    assert len(set(suite.seeds)) == 3
    folds = build_folds(suite.split, pages(["a", "b"]), buffer=suite.buffer, seed=0)
    assert [list(fold.test) for fold in folds] == [["a"], ["b"]]


def test_the_steel_study_has_room_for_its_tiles() -> None:
    suite = load_suite("steel")
    names = [*suite.split.train, *suite.split.calibration, *suite.split.test]
    assert sorted(names) == [f"{number:02}" for number in range(1, 25)]
    (fold,) = build_folds(suite.split, pages(names, (1660, 1640)), buffer=suite.buffer, seed=0)
    for region, of in ((fold.train, suite.split.train), (fold.calibration, suite.split.calibration)):
        assert sorted(region) == sorted(of)
        assert all(min(rect.height, rect.width) >= suite.tile for rects in region.values() for rect in rects)

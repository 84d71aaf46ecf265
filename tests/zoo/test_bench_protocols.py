"""Equal terms: the same trials for every row, on validation strips alone; more and less budget; who changes places."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tests.zoo.test_bench_parts import counts, fragment, plan, suite
from zoo.bench import command
from zoo.bench.budgets import by_budget
from zoo.bench.expect import print_plan
from zoo.bench.plan import SCORING, RunSpec, scaled
from zoo.bench.result import Result
from zoo.bench.score import BLOCK_FILE
from zoo.bench.suite import ModelEntry
from zoo.bench.sweep import read_sweep, trials, with_the_best

GRID = {"lr": [1e-4, 3e-4], "warmup": [0.1]}


def planned(seeds: tuple[int, ...] = (0, 1), **changed: Any) -> list[RunSpec]:
    """Two folds of a fragment."""
    page = fragment((np.random.default_rng(0).random((1024, 1024)) < 0.3).astype(np.uint8))
    given = {"models": [ModelEntry(name="depthcnn"), ModelEntry(name="sam")], "floors": ["zmean", "layout"], **changed}
    return plan(suite(**given), {"a": page}, list(seeds), steps=100)


def scored(spec: RunSpec, dice: float) -> Result:
    return Result(run_id=spec.run_id, status="ok", spec=spec, quality={"dice": dice})


# --- trials ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "grid"),
    [
        (["lr=1e-4,3e-4"], {"lr": [1e-4, 3e-4]}),
        (
            ["steps=10,20", "augment=null", "precision=bf16"],
            {"steps": [10, 20], "augment": [None], "precision": ["bf16"]},
        ),
        (["smoothing=.1"], {"smoothing": [0.1]}),
    ],
)
def test_values_are_numbers_words_or_yaml(texts: list[str], grid: dict[str, Any]) -> None:
    assert read_sweep(texts) == grid


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["lr"], "SETTING=VALUE"),
        (["lr="], "SETTING=VALUE"),
        (["rate=1"], "'rate'"),
        (["lrr=1"], "'lrr'; the nearest: lr"),
        (["seed=1"], "--seeds"),
        (["lr=1", "lr=2"], "twice"),
        (["lr={"], "YAML"),
    ],
)
def test_what_cannot_be_tried_is_named(texts: list[str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        read_sweep(texts)


def test_every_trained_row_gets_the_same_trials_in_every_fold_floors_too() -> None:
    specs = planned()
    made = trials(specs, GRID)
    assert len(made) == 3 * 2 * 2  # rows, folds, combinations; layout is not trained
    assert {trial.seed for trial in made} == {0}
    assert {trial.train["lr"] for trial in made} == {1e-4, 3e-4}
    assert not {trial.run_id for trial in made} & {spec.run_id for spec in specs}
    assert trials(specs, {}) == []


def test_a_trial_never_sees_the_test_region() -> None:
    specs = {(spec.fold, spec.seed): spec for spec in planned()}
    for trial in trials(planned(), GRID):
        own = specs[trial.fold, trial.seed]
        assert trial.test_rects == trial.calibration_rects == own.calibration_rects
        assert trial.train_rects == own.train_rects
        assert trial.trial


def test_each_row_and_fold_takes_what_won_there_for_all_its_seeds_budgets_and_controls() -> None:
    specs = planned(labels_turned=True, budgets=[1, 2])
    made = trials(specs, GRID)
    assert len(made) == 12
    folds = sorted({spec.fold for spec in specs})
    results = [
        scored(trial, 0.9 if (trial.train["lr"] == 3e-4) == (trial.fold == folds[0]) else 0.5)
        for trial in made
        if not trial.label.startswith("sam")
    ]
    tuned = with_the_best(specs, results, GRID)
    for spec, before in zip(tuned, specs, strict=True):
        if spec.floor or spec.row == "sam_tiny":
            assert spec.train == before.train  # none of its trials succeeded
            assert spec.failed_trials == (0 if spec.floor else 2)
        else:
            assert spec.failed_trials == 0
            assert spec.train["lr"] == (3e-4 if spec.fold == folds[0] else 1e-4)
            assert spec.tried == {"lr": [1e-4, 3e-4], "warmup": [0.1]}
            assert spec.train["steps"] == before.train["steps"]


def test_a_dry_run_knows_the_finished_runs_of_a_sweep_once_its_trials_have_ended(tmp_path: Path) -> None:
    specs = planned()
    made = trials(specs, GRID)
    results = [scored(trial, 0.9 if trial.train["lr"] == 3e-4 else 0.5) for trial in made]
    for result in results[:-1]:
        result.save(tmp_path / "runs" / result.run_id)
    assert command._tuned(specs, made, tmp_path, GRID) == specs
    results[-1].save(tmp_path / "runs" / results[-1].run_id)
    best = with_the_best(specs, results, GRID)
    for spec in best:
        scored(spec, 0.7).save(tmp_path / "runs" / spec.run_id)
    tuned = command._tuned(specs, made, tmp_path, GRID)
    assert tuned == best != specs
    said = io.StringIO()
    print_plan([*made, *tuned], tmp_path, Console(file=said, width=120), here=False)
    assert said.getvalue().count("finished before, kept") == len(made) + len(specs)


def test_a_trial_of_budgets_keeps_the_multiples() -> None:
    specs = planned(budgets=[0.5, 1])
    grid = {"steps": [40]}
    tuned = with_the_best(specs, [scored(trial, 0.5) for trial in trials(specs, grid)], grid)
    assert {(spec.budget, spec.train["steps"]) for spec in tuned if not spec.floor} == {(1, 40), (0.5, 20)}


# --- budgets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "times", "expected"),
    [
        ({"steps": 25}, 0.5, {"steps": 12}),
        ({"steps": 1}, 0.1, {"steps": 1}),
        ({"minutes": 3.0, "lr": 1}, 0.5, {"minutes": 1.5, "lr": 1}),
        ({"flops": 1e12}, 2, {"flops": 2e12}),
        ({"tiles_seen": 7}, 2, {"tiles_seen": 14}),
        ({}, 2, {"steps": 2000}),
    ],
)
def test_a_budget_is_scaled_whatever_it_is_counted_in(train, times, expected) -> None:
    assert scaled(train, times) == expected


def test_everything_trained_runs_at_every_budget_under_its_own_name() -> None:
    specs = planned(budgets=[0.5, 1, 2])
    trained = [spec for spec in specs if not spec.floor]
    assert {spec.label for spec in trained if spec.row == "zmean"} == {
        "zmean",
        "zmean, budget ×0.5",
        "zmean, budget ×2",
    }
    assert {spec.train["steps"] for spec in trained if spec.budget == 2} == {200}
    assert len({spec.run_id for spec in specs}) == len(specs)


def test_usual_runs_keep_the_folders_that_they_had_before_there_were_trials_and_budgets() -> None:
    spec = planned()[0].model_copy(update={"scoring": 1})
    said = spec.model_dump(mode="json")
    later = ("classes", "labels_turned", "budget", "trial", "tried", "failed_trials", "start_from", "start_sha256")
    for key in (*later, "scoring"):
        del said[key]
    assert spec.digest == hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    assert RunSpec(**said).digest == spec.digest, "a file from before them is the same run"


def test_a_run_that_is_scored_in_another_way_is_another_run() -> None:
    spec = planned()[0]
    assert spec.scoring == SCORING
    assert spec.model_copy(update={"scoring": SCORING + 1}).digest != spec.digest


def run_at(out: Path, qualities: dict[str, tuple[float, float]]) -> list[Result]:
    """Runs of three seeds, with the Dice of each row at half and at the full budget."""
    results = []
    models = [ModelEntry(name="depthcnn", label=label) for label in qualities]
    for spec in planned((0, 1, 2), models=models, floors=[], budgets=[0.5, 1]):
        half, full = qualities[spec.row]
        folder = out / "runs" / spec.run_id
        folder.mkdir(parents=True)
        blocks = counts(half if spec.budget == 0.5 else full, 60, spec.seed)
        place = {"row": np.arange(60) * 8, "col": np.zeros(60, int), "ink": np.arange(60) % 2 > 0}
        np.savez_compressed(folder / BLOCK_FILE, counts=blocks, score=np.linspace(0, 1, 60), **place)
        results.append(Result(run_id=spec.run_id, status="ok", spec=spec))
    return results


def test_models_that_change_places_are_named_and_so_is_whether_it_may_be_chance(tmp_path: Path) -> None:
    results = run_at(tmp_path, {"fast": (0.70, 0.71), "slow": (0.5, 0.85), "same": (0.702, 0.7099)})
    found = by_budget(results, tmp_path, floors=[])
    assert found.dice["slow"][0.5] == pytest.approx(0.5, abs=0.02)
    crossed = {frozenset((one.first, one.second)): one for one in found.crossings}
    surely = crossed[frozenset(("fast", "slow"))]
    assert (surely.first, surely.second, surely.told_apart) == ("fast", "slow", True)
    assert surely.differences[0].lo > 0 > surely.differences[1].hi
    assert not crossed[frozenset(("fast", "same"))].told_apart
    lines = found.lines()
    assert "×0.5 / ×1" in lines[0]
    assert any(line.startswith("rank crossing: fast leads slow by") for line in lines)
    json.dumps(found.as_dict(), allow_nan=False)


def test_floors_are_shown_but_cross_nobody(tmp_path: Path) -> None:
    results = run_at(tmp_path, {"fast": (0.70, 0.71), "slow": (0.5, 0.85)})
    found = by_budget(results, tmp_path, floors=["fast"])
    assert set(found.dice) == {"fast", "slow"}
    assert found.crossings == []


def test_one_budget_says_nothing(tmp_path: Path) -> None:
    results = [result for result in run_at(tmp_path, {"one": (0.5, 0.6)}) if result.spec.budget == 1]
    assert by_budget(results, tmp_path, floors=[]).lines() == []

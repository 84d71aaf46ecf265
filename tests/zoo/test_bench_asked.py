"""What a bench says of itself is what was asked of it, not what its suite's file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.zoo.test_bench_parts import fragment, plan, suite
from zoo.bench.__main__ import BenchOptions
from zoo.bench.command import _as_run as as_run
from zoo.bench.command import _folder as results_folder
from zoo.bench.command import _train_overrides as train_overrides
from zoo.bench.plan import plan_runs, resolve_models
from zoo.bench.report import _budget as budget
from zoo.bench.result import Result
from zoo.bench.suite import ModelEntry, Suite

FILE: dict[str, Any] = {
    "about": "Expect Dice above .65.",
    "data": ["phantom:dipole:1"],
    "models": [ModelEntry(name="depthcnn", train={"steps": 9, "lr": 0.1}), ModelEntry(name="sam")],
    "floors": ["zmean"],
    "train": {"steps": 250, "loss": "bce"},
}


def asked(**options: Any) -> Suite:
    made, chosen = suite(**FILE), BenchOptions(**options)
    models = resolve_models(made, [*chosen.models] or None, "cpu")
    return as_run(made, chosen, models, train_overrides(chosen))


def test_the_suite_that_is_shown_is_the_one_that_was_run() -> None:
    shown = asked(models=("depthcnn", "repmode"), seeds=("1,2",), folds=("0",), minutes=3.0, loss="dice")
    assert [entry.label for entry in shown.models] == ["depthcnn_tiny", "repmode_tiny"]
    assert (shown.seeds, shown.folds, shown.floors) == ([1, 2], [0], ["zmean"])
    assert shown.train == {"minutes": 3.0, "loss": "dice"}
    assert shown.models[0].train == {"lr": 0.1}, "its own steps were replaced by the minutes"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"steps": 3}, "steps"),
        ({"data": ("phantom:dipole:2",), "tile": 64}, "data, tile"),
        ({"seeds": ("0,1",), "models": ("sam",)}, ""),
    ],
)
def test_scores_to_expect_are_stated_of_the_suites_own_settings_alone(options: dict[str, Any], named: str) -> None:
    about = asked(**options).about
    assert ("Expect" in about) == (not named)
    assert (f"but for {named}: the scores and times it states do not apply" in about) == bool(named)


def test_ones_own_data_is_shown_by_name_not_by_its_place(tmp_path: Path) -> None:
    shown = asked(data=(str(tmp_path / "mine"), "phantom:dipole:3", "https://host/a.zarr"))
    assert shown.data == ["mine", "phantom:dipole:3", "https://host/a.zarr"]


def test_what_is_shown_is_planned_to_the_same_runs() -> None:
    fragments = {"a": fragment(np.eye(1024, dtype=np.uint8))}
    given = {"data": ["x"], "device": "cpu", "seeds": [0], "folds": []}
    made, shown = suite(**FILE), asked(steps=3)
    ids = [
        [
            run.run_id
            for run in plan_runs(one, resolve_models(made, None, "cpu"), fragments, **given, train={"steps": 3})
        ]
        for one in (made, shown)
    ]
    assert ids[0] == ids[1]


def test_the_caption_says_the_budget_and_who_has_another() -> None:
    fragments = {"a": fragment(np.eye(1024, dtype=np.uint8))}
    rows = [ModelEntry(name="depthcnn", label=label) for label in "abc"] + [
        ModelEntry(name="sam", train={"minutes": 2})
    ]
    specs = plan(suite(models=rows, floors=["allink"], train={"steps": 5, "batch_size": 16}), fragments, [0])
    results = [Result(run_id=spec.run_id, status="ok", spec=spec) for spec in specs]
    assert budget(results) == ["budget: 5 steps of 16 tiles a run; but sam_tiny 2 minutes"]
    assert budget(results[:1]) == ["budget: 5 steps of 16 tiles a run"]
    assert budget([one for one in results if one.spec.floor]) == []


def test_other_data_have_a_folder_of_their_own() -> None:
    own, elsewhere = BenchOptions(), BenchOptions(data=("somewhere/tile.zarr", "phantom:dipole:3"))
    assert results_folder(suite(**FILE), own) == suite(**FILE).name
    assert results_folder(suite(**FILE), elsewhere) == f"{suite(**FILE).name}-tile.zarr-phantom-dipole-3"

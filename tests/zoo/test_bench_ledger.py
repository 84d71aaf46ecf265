"""The ledger of scorings: how often one configuration has been tried on one test region, and what is another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.zoo.page_example import spec as a_spec
from zoo.bench.plan import RunSpec
from zoo.bench.result import Result
from zoo.bench.runner import LEDGER, _counted

TRAIN = {"steps": 2, "lr": 0.1, "seed": 0}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INKZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def scored(folder: Path, label: str = "depthcnn_tiny", **changed: Any) -> int:
    """Finish a run of depthcnn_tiny and tell which scoring of its configuration that was."""
    settings = {"model": "depthcnn_tiny", "stamps": {"a": "0"}, "train": TRAIN, **changed}
    run: RunSpec = a_spec(label, "a", (64, 64), **settings)
    done = Result(run_id=run.run_id, status="ok", spec=run, quality={"dice": 0.5})
    return _counted(done, folder / run.run_id).times_scored


def test_seeds_names_and_machines_are_one_configuration(tmp_path: Path) -> None:
    again = (
        {},
        {"seed": 1, "train": {**TRAIN, "seed": 1}},
        {"label": "mine"},
        {"data": ["elsewhere"]},
        {"device": "cuda:0"},
        {"suite": "another"},
        {"version": "1"},
        {"seed": 1, "train_rects": {"a": [(0, 8, 0, 8)]}, "calibration_rects": {"a": [(8, 16, 0, 8)]}},
    )
    assert [scored(tmp_path, **changed) for changed in again] == list(range(1, len(again) + 1))


@pytest.mark.parametrize(
    "changed",
    [
        {"depth": 4},
        {"offset": 1},
        {"clip": (0.0, 200.0)},
        {"divisor": 200.0},
        {"classes": 2},
        {"overlap": 0.25},
        {"test_rects": {"a": [(0, 8, 0, 8)]}},
        {"stamps": {"a": "1"}},
        {"recipe": {"samples": 9}},
        {"options": {"width": 4}},
        {"train": {**TRAIN, "lr": 0.2}},
        {"start_sha256": "1"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_whatever_changes_the_numbers_is_another_configuration(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert scored(tmp_path) == 1
    assert scored(tmp_path, **changed) == 1
    assert scored(tmp_path) == 2


def test_trials_and_turned_labels_do_not_count(tmp_path: Path, cache: Path) -> None:
    assert [scored(tmp_path, trial=True), scored(tmp_path, labels_turned=True)] == [0, 0]
    assert not (cache / LEDGER).exists()


def test_a_run_is_counted_once_however_often_it_is_come_to(tmp_path: Path) -> None:
    run = a_spec("depthcnn_tiny", "a", (64, 64))
    done = _counted(Result(run_id=run.run_id, status="ok", spec=run), tmp_path)
    assert _counted(done, tmp_path).times_scored == 1

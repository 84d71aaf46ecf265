"""Tuning on equal terms: every trained row gets the same trials, judged on validation strips, never on test.

A trial is a run of the first seed whose "test" is the fold's calibration strips, which nothing was trained on. Each
fold chooses for itself: with one choice for all of them, what is tested in one would have been looked at in another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from itertools import product
from typing import Any

import yaml

from zoo.bench.plan import RunSpec, scaled
from zoo.bench.result import Result
from zoo.train.config import BUDGET, TrainConfig, merge_settings

Grid = Mapping[str, Sequence[Any]]
"""Training setting -> the values to try."""


def read_sweep(texts: Sequence[str]) -> Grid:
    """`lr=1e-4,3e-4` and the like, as numbers, words or YAML.

    Raises:
        ValueError: no such setting, no value, or a setting twice.
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        key = key.strip()
        if not equals or not values.strip():
            raise ValueError(f"--sweep {text}: expected SETTING=VALUE,VALUE… such as lr=1e-4,3e-4")
        if key == "seed":
            raise ValueError(f"--sweep {text}: the better of two seeds is chance; train all of them with --seeds 0,1,2")
        if key not in TrainConfig.model_fields:
            nearest = ", ".join(
                get_close_matches(key, list(TrainConfig.model_fields), 3, 0.4) or TrainConfig.model_fields
            )
            raise ValueError(f"--sweep {text}: no training setting is called {key!r}; the nearest: {nearest}")
        if key in grid:
            raise ValueError(f"--sweep {text}: {key} is given twice; give all its values at once")
        try:
            grid[key] = [_value(part) for part in values.split(",")]
        except yaml.YAMLError:
            raise ValueError(f"--sweep {text}: the values are not numbers, words or YAML") from None
    return grid


def _value(text: str) -> Any:
    try:
        return float(text) if any(sign in text for sign in ".eE") else int(text)  # YAML takes 1e-4 for a word
    except ValueError:
        return yaml.safe_load(text)


def trials(specs: Sequence[RunSpec], grid: Grid) -> list[RunSpec]:
    """The trials for these runs: each trained row and fold, with its first seed, under every combination."""
    return [trial for row in _planned(specs, grid).values() for trial, _ in row]


def with_the_best(specs: Sequence[RunSpec], tried: Sequence[Result], grid: Grid) -> list[RunSpec]:
    """The runs with what won their row's and fold's trials: the highest Dice on the validation strips, of equals the
    first. A row none of whose trials succeeded stays as it was; how many did not is in `RunSpec.failed_trials`."""
    dice = {result.run_id: result.quality.get("dice") for result in tried if result.status == "ok"}
    chosen: dict[tuple[str, str], tuple[dict[str, Any], int]] = {}
    for key, row in _planned(specs, grid).items():
        scored = [(value, values) for trial, values in row if (value := dice.get(trial.run_id)) is not None]
        best = max(scored, key=lambda one: one[0])[1] if scored else {}
        chosen[key] = best, len(row) - len(scored)
    return [_tuned(spec, *chosen.get((spec.row, spec.fold), ({}, 0)), grid) for spec in specs]


def _planned(specs: Sequence[RunSpec], grid: Grid) -> dict[tuple[str, str], list[tuple[RunSpec, dict[str, Any]]]]:
    """(row, fold) -> its trials, each with what it tries."""
    first: dict[tuple[str, str], RunSpec] = {}
    for spec in specs:
        if not spec.floor and spec.label == spec.row:
            first.setdefault((spec.row, spec.fold), spec)
    combinations = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())] if grid else []
    return {key: [(_trial(spec, chosen), chosen) for chosen in combinations] for key, spec in first.items()}


def _trial(spec: RunSpec, chosen: Mapping[str, Any]) -> RunSpec:
    told = ", ".join(f"{key} {value}" for key, value in chosen.items())
    changed = {"label": f"{spec.label}, trial of {told}", "train": merge_settings(spec.train, chosen), "trial": True}
    return spec.model_copy(update={**changed, "test_rects": spec.calibration_rects})


def _tuned(spec: RunSpec, chosen: Mapping[str, Any], failed: int, grid: Grid) -> RunSpec:
    if spec.floor or not grid:
        return spec
    train = scaled(merge_settings(spec.train, chosen), spec.budget if set(chosen) & set(BUDGET) else 1)
    tried = {key: list(values) for key, values in grid.items()}
    return spec.model_copy(update={"train": train, "tried": tried, "failed_trials": failed})

"""How long runs will take: by earlier runs of the same configuration, its measured cost, or a short try of it here."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape

from data_recipes.cli import duration
from zoo.bench.cost import STAGES, cost_file, read_cost
from zoo.bench.plan import RunSpec
from zoo.bench.result import RESULT_FILE, load_result
from zoo.bench.runner import finished, head
from zoo.train.config import TrainConfig

EARLIER, COST, TRIED = "earlier runs of the configuration", "its measured cost", "a short try of it here"


_OF_A_CONFIGURATION = {"model", "options", "data", "recipe", "tile", "depth", "classes", "overlap", "device"}


class Expected(NamedTuple):
    """Seconds that a run will take, and by what; None where that is not known, and why."""

    seconds: float | None
    by: str


def print_plan(specs: Sequence[RunSpec], out: Path, console: Console, *, here: bool) -> None:
    """A line a run, and what all of them will take together. `here`: whether this machine is the one they run on."""
    runs, total, sources = list(specs), 0.0, Counter[str]()
    for number, expected in enumerate(expect(runs, out, here=here)):
        if expected is None:
            words = "finished before, kept"
        elif expected.seconds is None:
            words = expected.by
            sources["not known, and not counted" if not runs[number].floor else "floors, and not counted"] += 1
        else:
            words = f"about {duration(expected.seconds)}"
            total += expected.seconds
            sources[f"by {expected.by}"] += 1
        console.print(f"{head(runs, number)}  [dim]{escape(words)}[/]")
    told = f" ({'; '.join(f'{count} {how}' for how, count in sources.items())})" if sources else ""
    console.print(f"\nexpected: {duration(total)} one after another{told}")
    if {f"by {COST}", f"by {TRIED}"} & sources.keys():
        console.print("[dim]by a cost or a try: training and prediction alone, without reading, scoring, starting[/]")


def expect(specs: Sequence[RunSpec], out: Path, *, here: bool = True) -> Iterator[Expected | None]:
    """What each run will take; None for one that has finished.

    Raises:
        ValueError: a result file that is damaged.
    """
    past, tried = _past(out), dict[Path, dict[str, Any]]()
    for spec in specs:
        if finished(out / "runs" / spec.run_id):
            yield None
        elif walls := past.get(_configuration(spec)):
            yield Expected(median(walls), EARLIER)
        elif spec.floor:
            yield Expected(None, "a floor: seconds")
        else:
            kept = cost_file(spec, out)
            parts = read_cost(kept)
            if set(STAGES) <= set(parts):
                yield _by(spec, {key: value for part in parts.values() for key, value in part.items()}, COST)
                continue
            if here and kept not in tried:
                tried[kept] = _try(spec)
            found = tried.get(kept, {"reason": "its machine is not this one"})
            if "reason" in found:
                yield Expected(None, f"not known: {found['reason']}")
            else:
                yield _by(spec, found, TRIED)


def _by(spec: RunSpec, figures: Mapping[str, Any], by: str) -> Expected:
    seconds = _seconds(spec, figures)
    return Expected(seconds, "not known: its FLOPs cannot be counted" if seconds is None else by)


def _past(out: Path) -> Mapping[str, list[float]]:
    """Seconds that each configuration has taken, whatever its seed and fold."""
    walls: dict[str, list[float]] = defaultdict(list)
    for path in sorted((out / "runs").glob(f"*/{RESULT_FILE}")):
        try:
            result = load_result(path)
        except ValueError:  # of another version; a run whose own it is says so
            continue
        if result.status == "ok" and result.cost.get("wall_seconds"):
            walls[_configuration(result.spec)].append(result.cost["wall_seconds"])
    return walls


def _configuration(spec: RunSpec) -> str:
    """All of a run but its seed and fold."""
    what = spec.model_dump(mode="json", include=_OF_A_CONFIGURATION)
    return json.dumps([what, {key: value for key, value in spec.train.items() if key != "seed"}], sort_keys=True)


def _try(spec: RunSpec) -> dict[str, Any]:
    """The figures of one repeat of each stage, or the reason for none."""
    from zoo.bench.measure import Repeats, measure

    once, found = Repeats(warm_up=1, least=1, most=1, seconds=0.0), dict[str, Any]()
    try:
        with warnings.catch_warnings():  # the run itself will warn
            warnings.simplefilter("ignore")
            for stage in STAGES:
                found |= measure(stage, spec, once)
    except Exception as error:  # a model of any package: the other runs are still to be told
        return {"reason": f"{type(error).__name__}: {error}"}
    return found


def _seconds(spec: RunSpec, figures: Mapping[str, Any]) -> float | None:
    """Training by its budget, and prediction of what is calibrated and tested on."""
    config = TrainConfig(**spec.train)
    size, step = config.batch_size, figures["step_seconds"]
    if config.minutes is not None:
        training = 60 * config.minutes
    elif config.steps is not None:
        training = config.steps * step
    elif config.tiles_seen is not None:
        training = math.ceil(config.tiles_seen / size) * step
    elif figures["step_flops"]:
        training = math.ceil((config.flops or 0) / figures["step_flops"]) * step
    else:
        return None
    regions = (*spec.calibration_rects.values(), *spec.test_rects.values())
    pixels = sum((y1 - y0) * (x1 - x0) for rects in regions for y0, y1, x0, x1 in rects)
    return training + pixels / 1e6 / figures["megapixels_per_second"]

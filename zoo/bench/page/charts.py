"""The numbers behind the charts, as plain data for the page's script: points, Pareto fronts, learning curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from zoo.bench.leaderboard import Row
from zoo.bench.page.content import Entry
from zoo.bench.result import Result
from zoo.bench.shown import marked, pareto

_CURVE_POINTS = 300
_ALL_POINTS = 30_000  # over all curves, so that a bench of a hundred runs stays a page

MEASURES = {
    "memory": {
        "train_mb": "peak memory of training, MB",
        "inference_mb": "peak memory of inference, MB",
        "parameters": "parameters",
    },
    "time": {
        "step_seconds": "seconds a training step",
        "train_seconds": "seconds of training",
        "train_36000_tiles_hours": "hours of training steps on 36,000 tiles",
        "seconds_per_megapixel": "seconds a megapixel at inference",
        "kaggle_fragment_hours": "hours to predict 8181 × 6330 px",
        "tile_flops": "FLOPs of a tile, forward",
        "train_joules_per_1000_tiles": "joules of training on 1,000 tiles",
    },
}


def chart_data(entries: Sequence[Entry], results: Sequence[Result]) -> dict[str, Any]:
    """Everything the script draws; free of NaN, so that it is JSON."""
    keys = [key for measures in MEASURES.values() for key in measures]
    rows = [entry.row for entry in entries]
    costs = {entry.id: _costs(entry.row) for entry in entries}
    points = [
        {
            "id": entry.id,
            "label": entry.row.label,
            "name": marked(entry.row, entry.row.label),
            "floor": entry.row.floor,
            "control": entry.row.control,
            "verdict": entry.row.verdict,
            "rank": entry.place,
            "dice": _drawable(entry.row.dice),
            "low": _drawable(entry.row.dice_low),
            "high": _drawable(entry.row.dice_high),
            **costs[entry.id],
        }
        for entry in entries
    ]
    ids = {entry.row.label: entry.id for entry in entries}
    drawn = [(run, curve) for run in results if run.spec.label in ids and (curve := finite(run.curve))]
    most = min(_CURVE_POINTS, max(20, _ALL_POINTS // max(len(drawn), 1)))
    return {
        "points": points,
        "fronts": {
            key: [ids[row.label] for row in pareto(rows, lambda row, key=key: _costs(row)[key])] for key in keys
        },
        "measures": {
            name: {key: words for key, words in measures.items() if any(cost[key] for cost in costs.values())}
            for name, measures in MEASURES.items()
        },
        "memory_kind": next((entry.row.memory_kind for entry in entries if entry.row.memory_kind), ""),
        "curves": [
            {"id": ids[run.spec.label], "fold": run.spec.fold, "seed": run.spec.seed, "points": thinned(curve, most)}
            for run, curve in drawn
        ],
        "losses": len({str(run.spec.train.get("loss")) for run, _ in drawn}),
    }


def _costs(row: Row) -> dict[str, float | None]:
    rate = row.megapixels_per_second
    found: dict[str, float | None] = {
        "train_mb": row.train_mb,
        "inference_mb": row.inference_mb,
        "parameters": row.parameters,
        "step_seconds": row.step_seconds,
        "train_seconds": row.train_seconds,
        "train_36000_tiles_hours": row.train_36000_tiles_hours,
        "kaggle_fragment_hours": row.kaggle_fragment_hours,
        "tile_flops": row.tile_flops,
        "train_joules_per_1000_tiles": row.train_joules_per_1000_tiles,
        "seconds_per_megapixel": 1 / rate if rate else None,
    }
    # A log axis has no place for zero.
    return {key: value if value and value > 0 else None for key, value in ((k, _drawable(v)) for k, v in found.items())}


def _drawable(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def finite(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points of a curve that can be drawn; a loss that became NaN leaves a gap."""
    return [(step, loss) for step, loss in curve if math.isfinite(step) and math.isfinite(loss)]


def thinned(curve: Sequence[tuple[float, float]], most: int = _CURVE_POINTS) -> list[tuple[float, float]]:
    """At most so many points: means of neighbours, rounded to five digits."""
    points = np.asarray(curve, float)
    if len(points) > most:
        points = np.stack([part.mean(0) for part in np.array_split(points, most)])
    return [(float(f"{step:.5g}"), float(f"{loss:.5g}")) for step, loss in points]

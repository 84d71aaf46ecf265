"""What a configuration costs, measured apart from its runs: once a machine and device, on noise, in two processes.

`cost-inference` and `cost-training` are stages of a run beside `train` and `score`, each a fresh process, so that both
peaks are measured from a fresh start. What they find is kept in OUT/cost under all that it depends on, and every run of
that configuration copies it into its Result. Times are of batches that lie on the device: reading and writing, which
depend on disks, are not in them; augmentation is a part of a training step, as it is in a run. Each is the median of
warmed-up repeats, with its quartiles; whatever else the machine does meanwhile is in them, such as other runs on a node
of a cluster.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from zoo.bench.names import slug
from zoo.bench.plan import RunSpec
from zoo.bench.result import hardware
from zoo.train.config import BUDGET

INFERENCE, TRAINING = "cost-inference", "cost-training"
STAGES = (INFERENCE, TRAINING)
KAGGLE_FRAGMENT = (8181, 6330)  # px, fragment 1 of the Kaggle ink detection data
TRAINING_TILES = 36_000  # of the reference recipe's table
SIZES_GB = (12, 16, 24, 80)  # memory of the usual GPUs
METHOD = 1
"""Raised whenever something else is measured, or in another way: figures of either are not put beside each other."""
_NOT_OF_COST = {"seed", "lr", "layer_decay", "weight_decay", "warmup", "schedule", "smoothing", *BUDGET}


def cost_file(spec: RunSpec, out: Path) -> Path:
    """Where the figures of a run's configuration lie, for all runs of it on one machine, with one torch."""
    import torch

    what = {
        **{key: getattr(spec, key) for key in ("model", "options", "tile", "depth", "classes", "overlap")},
        **{key: getattr(spec, key) for key in ("device", "version")},
        "machine": platform.node(),
        "hardware": hardware(spec.device),
        "threads": torch.get_num_threads(),
        "torch": metadata.version("torch"),
        "method": METHOD,
        "train": {key: value for key, value in spec.train.items() if key not in _NOT_OF_COST},
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
    return out / "cost" / f"{slug(spec.model)[:60]}-{digest}.json"


def stage_file(stage: str) -> str:
    """Where in a run's folder a stage leaves its figures, or the reason why there are none."""
    return f"{stage}.json"


def read_cost(path: Path) -> dict[str, Any]:
    """What such a file holds; nothing where there is none or it is damaged, so that it is measured anew."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def predicting(spec: RunSpec, size: int, seconds: float) -> dict[str, float]:
    """What a batch's time makes of a whole fragment, every tile of which is computed, at the suite's overlap."""
    from zoo.predict.grid import Axis

    height, width = KAGGLE_FRAGMENT
    rows, columns = (len(Axis.of(length, spec.tile, spec.overlap, "hann").origins) for length in KAGGLE_FRAGMENT)
    whole = math.ceil(rows * columns / size) * seconds
    return {
        "tiles_per_second": size / seconds,
        "megapixels_per_second": height * width / 1e6 / whole,
        "kaggle_fragment_hours": whole / 3600,
    }


def batches_that_fit(batch: int, peak: int, fixed: int, *, on_gpu: bool) -> dict[str, int]:
    """The largest batch of training that fits `SIZES_GB`, from the peak in bytes of one of `batch` tiles.

    `fixed` bytes of it, weights, gradients and the optimizer's state, do not grow with the batch; all else is taken to,
    libraries' workspace with it, so that the estimate is rather low. As much stays free as `zoo.train.plan` leaves,
    which tries what it chooses. 0: not one tile.
    """
    from zoo.train.plan import CONTEXT, MARGIN

    each = max(1.0, (peak - fixed) / batch)
    found = {}
    for size in SIZES_GB:
        limit = min(size * 10**9 * (1 - MARGIN), size * 10**9 - (CONTEXT if on_gpu else 0))
        found[f"batch_in_{size}_gb"] = max(0, math.floor((limit - fixed) / each))
    return found


def measured(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The figures that a run's folder has been given, and a note for each stage that failed, with the reason."""
    parts: Mapping[str, Mapping[str, Any]] = {stage: read_cost(folder / stage_file(stage)) for stage in STAGES}
    figures = {key: value for stage in STAGES for key, value in parts[stage].get("figures", {}).items()}
    notes = [f"{stage}: not measured: {part['reason']}" for stage, part in parts.items() if "reason" in part]
    return figures, notes

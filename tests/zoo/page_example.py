"""A finished bench to make pages of, without training: rows that lead, tie and fail, and floors; maps and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from scipy.ndimage import gaussian_filter

from data_recipes.fragment import Fragment
from zoo.bench.compare import Standing
from zoo.bench.leaderboard import Row
from zoo.bench.leaderboard import _place as place
from zoo.bench.leaderboard import _row as row_of
from zoo.bench.page import write_page
from zoo.bench.page.pictures import regions
from zoo.bench.plan import RunSpec
from zoo.bench.result import Result
from zoo.bench.score import map_name
from zoo.significance import PairedInterval

FLOORS = ("zmean", "allink")


def fragment(name: str, shape: tuple[int, int] = (120, 160), seed: int = 0) -> Fragment:
    """Strokes on a disc of papyrus, one column of tiles unsupervised; 3 layers."""
    rng = np.random.default_rng(seed)
    height, width = shape
    y, x = np.mgrid[:height, :width]
    ink = gaussian_filter(rng.standard_normal(shape), 4) > 0.06
    papyrus = ((y / height - 0.5) ** 2 + (x / width - 0.5) ** 2) < 0.24
    supervised = np.ones(shape, bool)
    supervised[:, : width // 8] = False
    volume = (100 + 40 * ink + 12 * rng.standard_normal((3, *shape))).clip(0, 255).astype(np.uint8)
    fake = SimpleNamespace(
        name=name,
        shape=shape,
        depth=3,
        center_layer=1,
        label=(ink & papyrus).astype(np.uint8),
        papyrus=papyrus,
        supervised=supervised,
        volume=volume,
        read=lambda y0, y1, x0, x1, z0, z1: volume[z0:z1, y0:y1, x0:x1],
    )
    return cast(Fragment, fake)


def spec(label: str, name: str, shape: tuple[int, int], *, model: str = "", seed: int = 0, **changed: Any) -> RunSpec:
    height, width = shape
    floor = label in FLOORS
    settings: dict[str, Any] = {
        "suite": "example",
        "label": label,
        "model": model or (label if floor else "depthcnn_tiny"),
        "floor": label == "allink",
        "fold": f"without {name}",
        "seed": seed,
        "data": ["nowhere"],
        "train_rects": {},
        "calibration_rects": {},
        "test_rects": {name: [(0, height, 0, width)]},
        "buffer": 32,
        "stamps": {},
        "version": "0",
        "recipe": {},
        "tile": 32,
        "depth": 8,
        "offset": 0,
        "clip": (0.0, 255.0),
        "divisor": 255.0,
        "overlap": 0.5,
        "letter_px": 32,
        "train": {} if label == "allink" else {"lr": 0.001, "loss": {"bce": 1, "dice": 1}, "steps": 300, "seed": seed},
        "device": "cpu",
    }
    return RunSpec(**{**settings, **changed})


def result(
    run: RunSpec, of: Fragment, out: Path, quality: float, *, megabytes: float = 100.0, seconds: float = 0.1
) -> Result:
    """A finished run whose map is the label, blurred and drowned in noise the more, the lower its quality."""
    rng = np.random.default_rng([run.seed, *run.label.encode()])
    folder = out / "runs" / run.run_id
    folder.mkdir(parents=True)
    label = cast(np.ndarray, of.label[:]) > 0  # pyright: ignore[reportOptionalSubscript]
    noise = gaussian_filter(rng.standard_normal(label.shape), 5)
    seen = gaussian_filter(label.astype(float), 2) * quality + (1 - quality) * (0.4 + 2.5 * noise)
    np.save(folder / map_name(of.name), np.clip(seen, 0, 1).astype(np.float16))
    scores: dict[str, float | None] = {
        "dice": quality,
        "f05": quality - 0.05,
        "iou": quality / 2,
        "auc": (1 + quality) / 2,
        "auc_blocks": 0.8,
    }
    scores |= {"auc_rows": 0.78, "ap": quality, "ap_lift": 5 * quality, "prevalence": 0.16, "ece": 0.05}
    steps = np.linspace(1, 300, 120)
    losses = 0.3 + (1.5 - quality) * np.exp(-steps / (60 * (2 - quality))) + 0.02 * rng.standard_normal(120)
    cost: dict[str, Any] = (
        {}
        if run.label == "allink"
        else {
            "parameters": int(megabytes * 9000),
            "batch_seconds": seconds / 5,
            "batch_seconds_low": seconds / 6,
            "batch_seconds_high": seconds / 4,
            "batch_seconds_repeats": 30,
            "inference_bytes": int(megabytes * 2**18),
            "memory_kind": "CPU memory",
            "tiles_per_second": 20 / seconds,
            "megapixels_per_second": 0.05 / seconds,
            "kaggle_fragment_hours": 0.3 * seconds,
            "step_seconds": seconds,
            "step_seconds_low": 0.9 * seconds,
            "step_seconds_high": 1.2 * seconds,
            "step_seconds_repeats": 10,
            "tile_flops": int(4e9 * seconds),
            "step_flops": int(48e9 * seconds),
            "train_bytes": int(megabytes * 2**20),
            "train_36000_tiles_hours": 2.5 * seconds,
            "train_joules_per_1000_tiles": None,
            "batch_in_12_gb": int(40_000 / megabytes),
            "batch_in_24_gb": int(80_000 / megabytes),
            "budget": "300 steps",
            "steps": 300,
            "precision": "fp32",
            "train_seconds": 300 * seconds,
            "run_step_seconds": 1.1 * seconds,
            "run_train_bytes": int(megabytes * 2**20) + run.seed * 2**20,
            "run_inference_seconds": 20 * seconds,
            "run_megapixels_per_second": 0.04 / seconds,
        }
    )
    return Result(
        run_id=run.run_id,
        status="ok",
        spec=run,
        quality=scores,
        per_fragment={of.name: {**scores, "null_high": 0.55}},
        threshold=0.42,
        controls={
            "null_high": 0.55,
            "false_ink_on_blank": 0.01,
            "calibration_dice": quality,
            "leak": {"overlap_px": 0},
        },
        cost=cost,
        curve=list(zip(steps.tolist(), losses.tolist(), strict=True)) if cost else [],
        environment={"versions": {"torch": "2.x"}, "device": "cpu", "hardware": "two cores", "commit": "abc"},
        times_scored=1,
    )


CARDS = ("repmode_tiny", "sam_tiny", "depthcnn_tiny", "zmean", "allink")  # of the rest the card of depthcnn is shown
# label -> Dice, MB, seconds a step
MODELS = {
    "repmode_tiny": (0.75, 223.0, 0.62),
    "sam_tiny": (0.745, 413.0, 0.52),
    "unet3plus_tiny": (0.68, 520.0, 1.3),
    "elunet_tiny": (0.62, 96.0, 0.21),
    "depthcnn_tiny": (0.60, 90.0, 0.19),
    "smp_unet": (0.40, 150.0, 0.11),
    "zmean": (0.30, 84.0, 0.08),
    "allink": (0.28, 0.0, 0.0),
}


def bench(
    out: Path,
    fragments: Sequence[Fragment],
    models: Mapping[str, tuple[float, float, float]] = MODELS,
    *,
    seeds: int = 2,
    failed: Mapping[str, str] | None = None,
) -> list[Result]:
    """Results of every model on every fragment; `failed`: label -> reason, of models that ran out of memory."""
    results = []
    for of in fragments:
        for seed in range(seeds):
            for label, (quality, megabytes, seconds) in models.items():
                run = spec(label, of.name, of.shape, model=label if label in CARDS else "", seed=seed)
                results.append(result(run, of, out, quality, megabytes=megabytes, seconds=seconds))
            for label, reason in (failed or {}).items():
                run = spec(label, of.name, of.shape, seed=seed)
                results.append(Result(run_id=run.run_id, status="out_of_memory", reason=reason, spec=run))
    return results


def rows(results: Sequence[Result]) -> list[Row]:
    """Rows as `build_rows` makes them, with intervals of ±.02 and ranks by steps of .01 in place of the bootstraps."""
    runs: dict[str, list[Result]] = {}
    for run in results:
        runs.setdefault(run.spec.label, []).append(run)
    dice = {label: own[0].quality.get("dice") for label, own in runs.items() if own[0].status == "ok"}
    floors = [label for label in runs if label in FLOORS]
    standings, group, leader = {}, 0, 2.0
    best = max((value or 0 for label, value in dice.items() if label not in FLOORS), default=0.0)
    for label, value in sorted(dice.items(), key=lambda item: -(item[1] or 0)):
        assert value is not None
        if leader - value > 0.01:
            group, leader = group + 1, value
        above = {floor: interval(value - (dice[floor] or 0)) for floor in floors if floor != label}
        standings[label] = Standing(
            label,
            value,
            low=value - 0.02,
            high=value + 0.015,
            group=None if label in FLOORS or runs[label][0].spec.control else group,
            blocks=40,
            to_leader=interval(value - best),
            above=above,
            above_auc=above,
        )
    return sorted((row_of(label, own, standings.get(label), floors) for label, own in runs.items()), key=place)


def interval(difference: float) -> PairedInterval:
    return PairedInterval(difference, difference - 0.015, difference + 0.015, 60, 0.01)


def page(
    out: Path,
    fragments: Sequence[Fragment],
    results: Sequence[Result],
    *,
    title: str = "inkzoo, suite example",
    pictures: bool = True,
) -> str:
    """The page's text, written into `out`."""
    meta = {
        "suite": {"name": "example", "about": "An example.", "tile": 32, "floors": list(FLOORS)},
        "environment": results[0].environment,
    }
    caption = [
        "rank: 1 is the group that leads",
        "one seed: a sentence that is not a term of its own kind",
        "a plain line",
    ]
    named = {one.name: one for one in fragments}
    made = rows(results)
    shown = regions(results, named, out, made) if pictures else []
    path = write_page(made, results, shown, out, title=title, caption=caption, meta=meta, pictures=pictures)
    return path.read_text(encoding="utf-8")

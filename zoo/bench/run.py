"""One run, in two stages that each have a process of their own: train a checkpoint, then score it.

Two processes, so that the peak memory of either is measured from a fresh start, and so that a checkpoint is kept when
scoring fails. What the run itself takes stands in its Result under names that begin with `run_`; the cost by which
configurations are compared is measured apart (`zoo.bench.cost`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_recipes.fragment import Fragment, open_fragments
from data_recipes.recipe import Recipe
from data_recipes.regions import Rect
from data_recipes.sampling import build_table
from data_recipes.split import leak_report
from data_recipes.table import SampleTable
from data_recipes.tiles import TileDataset, fit_contract
from data_recipes.turned import labels_turned
from zoo.bench.cost import measured
from zoo.bench.floors import FLOORS, FloatMap
from zoo.bench.plan import RunSpec
from zoo.bench.result import Result, environment
from zoo.bench.score import score

if TYPE_CHECKING:
    from zoo.train.config import TrainConfig

CHECKPOINT = "last.safetensors"


def train_stage(spec: RunSpec, folder: Path) -> dict[str, Any]:
    """Train and write `folder`/last.safetensors; what the Result needs of it comes back as plain data."""
    import torch

    from zoo.registry import create_model
    from zoo.train.config import TrainConfig
    from zoo.train.loop import train
    from zoo.train.progress import show_progress
    from zoo.train.start import source_of, start_from

    fragments, fold = _open(spec), spec.as_fold()
    table, report = build_table(fragments, fold.train, Recipe(**spec.recipe), seed=spec.seed)
    leak = leak_report(table, spec.tile, fold).check()
    contract = fit_contract(
        fragments,
        fold.train,
        depth=spec.depth,
        tile=spec.tile,
        offset=spec.offset,
        clip=spec.clip,
        divisor=spec.divisor,
        seed=spec.seed,
    )
    config = TrainConfig(**spec.train)
    torch.manual_seed(spec.seed)
    model = create_model(spec.model, depth=spec.depth, tile=spec.tile, classes=spec.classes, **spec.options)
    started = None
    if spec.start_from:
        start_from(model, spec.start_from, print)
        started = source_of(spec.start_from, fold, contract, print)
        if started["sha256"] != spec.start_sha256:
            raise ValueError(f"{spec.start_from}: has changed since this run was planned; give the command again")
    with show_progress(spec.label) as on_progress:
        trained = train(
            model,
            TileDataset(fragments, table, contract),
            config,
            device=spec.device,
            out=folder,
            resume=True,
            on_progress=on_progress,
            name=spec.model,
            options=spec.options,
            record={"run": spec.model_dump(mode="json"), "started_from": started},
        )
    return {
        "report": trained.as_dict(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "tiles": {"total": len(table), "short": report.shortfalls, "order": data_order(table, config)},
        "leak": leak.as_dict(),
        "started_from": started and {key: started[key] for key in ("name", "sha256", "held_out_px_seen", "trained")},
        "contract": contract.model_dump(mode="json"),
        "notes": sorted({note for fragment in fragments.values() for note in fragment.notes}),
    }


def _open(spec: RunSpec) -> dict[str, Fragment]:
    fragments = open_fragments(spec.data)
    if spec.classes > 1:
        _check_classes(fragments, spec.classes)
    return {name: labels_turned(one) for name, one in fragments.items()} if spec.labels_turned else fragments


def _check_classes(fragments: Mapping[str, Fragment], classes: int) -> None:
    """ValueError where labels do not hold the classes of the suite: nothing else shows that grey values are unnamed."""
    labelled = [fragment for fragment in fragments.values() if fragment.label is not None]
    stated = {index for fragment in labelled for index in (fragment.label_values or {0: 0, 1: 1}).values()}
    if stated != set(range(classes)):
        raise ValueError(
            f"the suite has {classes} classes, 0 to {classes - 1}, the labels hold {sorted(stated)}; state in the "
            "fragment.yaml beside each fragment which grey value is which class, such as label_values: "
            "{0: 0, 128: 1, 255: 2}; without it everything above 0 is class 1"
        )


def data_order(table: SampleTable, config: TrainConfig) -> str:
    """Digest of the first 100 batches as the training loop draws them: two seeds must not have the same."""
    from zoo.train.batches import Batches

    batches = islice(Batches(len(table), config.batch_size, config.seed), 100)
    rows = np.concatenate([np.array(batch) for batch in batches])
    tiles = np.stack([table.fragment, table.y, table.x], 1)[rows]
    return hashlib.sha256(tiles.astype("<i4").tobytes()).hexdigest()[:16]


def score_stage(spec: RunSpec, folder: Path, trained: dict[str, Any]) -> Result:
    """Predict calibration and test regions, choose the threshold on the former, score the latter."""
    fragments, fold = _open(spec), spec.as_fold()
    cost: dict[str, Any] = {}
    notes: list[str] = []
    if spec.floor:
        predict = FLOORS[spec.model](fragments, fold.train)
        outcome = score(predict, fragments, fold, folder=folder, letter_px=spec.letter_px, fixed=spec.model == "allink")
    else:
        predict = _ModelPredictor(spec, folder)
        outcome = score(predict, fragments, fold, folder=folder, letter_px=spec.letter_px, classes=spec.classes)
        report = trained["report"]
        figures, notes = measured(folder)
        cost = {
            "parameters": trained["parameters"],
            **figures,
            "budget": predict.config.budget,
            **{key: report[key] for key in ("steps", "samples", "precision")},
            "train_seconds": report["seconds"],
            "run_step_seconds": report["step_seconds"],
            "run_train_bytes": report["peak_bytes"],
            "run_train_bytes_reserved": report["peak_reserved"],
            "run_inference_bytes": predict.bytes,
            "run_inference_bytes_reserved": predict.bytes_reserved,
            "run_inference_seconds": predict.seconds,
            "run_inference_pixels": predict.pixels,
            "run_megapixels_per_second": predict.pixels / 1e6 / predict.seconds,
        }
        if figures.get("step_flops"):
            cost["train_flops"] = figures["step_flops"] * report["steps"]
    return Result(
        run_id=spec.run_id,
        status="ok",
        spec=spec,
        quality=outcome.quality,
        per_fragment=outcome.per_fragment,
        threshold=outcome.threshold,
        controls={**outcome.controls, **{key: trained.get(key) for key in ("leak", "started_from")}},
        contract=trained.get("contract", {}),
        cost=cost,
        curve=trained["report"]["curve"] if trained else [],
        tiles=trained.get("tiles", {}),
        notes=[*trained.get("notes", []), *notes],
        environment=environment(spec.device),
    )


class _ModelPredictor:
    """Predicts with a run's checkpoint, and keeps count of what prediction alone costs.

    Its answer is the ink probability (H, W) of one class, and that of each class (C, H, W) of several.
    """

    def __init__(self, spec: RunSpec, folder: Path):
        from zoo.checkpoint import load_checkpoint
        from zoo.train.config import TrainConfig

        self.spec, self.config = spec, TrainConfig(**spec.train)
        self.loaded = load_checkpoint(folder / CHECKPOINT, spec.device)
        self.seconds, self.pixels, self.bytes, self.bytes_reserved = 0.0, 0, 0, None

    def __call__(self, fragment: Fragment, rect: Rect) -> FloatMap:
        from zoo.memory import PeakMemory
        from zoo.predict.tiles import predict_region

        began = time.perf_counter()
        with PeakMemory(self.spec.device, self.loaded.model) as peak:
            prob = predict_region(
                self.loaded.model,
                fragment,
                rect,
                self.loaded.contract,
                overlap=self.spec.overlap,
                batch_size=self.config.batch_size,
                device=self.spec.device,
                precision=self.config.precision,
                degrade=self.config.degrade,
                classes=self.spec.classes > 1,
            )
        self.seconds += time.perf_counter() - began
        self.pixels += rect.area
        # Later calls begin with memory that the first one left behind, so the largest growth is the honest one.
        self.bytes = max(self.bytes, peak.bytes)
        self.bytes_reserved = peak.reserved
        return prob

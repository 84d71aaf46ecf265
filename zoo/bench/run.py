"""One run, in two stages that each have a process of their own: train a checkpoint, then score it.

Two processes, so that the peak memory of training and of inference are each measured from a fresh start, and so that a
checkpoint is kept when scoring fails.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from data_recipes.fragment import Fragment, open_fragments
from data_recipes.recipe import load_recipe
from data_recipes.regions import Rect
from data_recipes.sampling import build_table
from data_recipes.split import leak_report
from data_recipes.tiles import TileDataset, fit_contract
from zoo.bench.floors import FLOORS, FloatMap, Predict
from zoo.bench.plan import RunSpec
from zoo.bench.result import Result, environment
from zoo.bench.score import score

CHECKPOINT = "last.safetensors"


def train_stage(spec: RunSpec, folder: Path) -> dict[str, Any]:
    """Train and write `folder`/last.safetensors; what the Result needs of it comes back as plain data."""
    import torch

    from zoo.registry import create_model
    from zoo.train.config import TrainConfig
    from zoo.train.loop import train
    from zoo.train.progress import show_progress

    fragments, fold = open_fragments(spec.data), spec.fold_object()
    recipe = load_recipe(spec.recipe).with_(tile=spec.tile, samples=spec.samples)
    table, report = build_table(fragments, fold.train, recipe, seed=spec.seed)
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
    model = create_model(spec.model, depth=spec.depth, tile=spec.tile, **spec.options)
    with show_progress(spec.label) as on_progress:
        trained = train(
            model,
            TileDataset(fragments, table, contract),
            config,
            device=spec.device,
            out=folder,
            on_progress=on_progress,
            name=spec.model,
            options=spec.options,
            record={"run": spec.model_dump(mode="json")},
        )
    return {
        "report": trained.as_dict(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "tiles": {"total": len(table), "short": report.shortfalls},
        "leak": leak.as_dict(),
        "contract": contract.model_dump(mode="json"),
        "notes": sorted({note for fragment in fragments.values() for note in fragment.notes}),
    }


def score_stage(spec: RunSpec, folder: Path, trained: dict[str, Any]) -> Result:
    """Predict calibration and test regions, choose the threshold on the former, score the latter."""
    fragments, fold = open_fragments(spec.data), spec.fold_object()
    cost: dict[str, Any] = {}
    if spec.floor:
        predict = FLOORS[spec.model](fragments, fold.train)
        outcome = score(predict, fragments, fold, folder=folder, letter_px=spec.letter_px, fixed=spec.model == "allink")
    else:
        from zoo.memory import PeakMemory

        predict = _model_predictor(spec, folder)
        began = time.perf_counter()
        with PeakMemory(spec.device) as peak:
            outcome = score(predict, fragments, fold, folder=folder, letter_px=spec.letter_px)
        seconds = time.perf_counter() - began
        held_out = [rect for region in (fold.calibration, fold.test) for rects in region.values() for rect in rects]
        report = trained["report"]
        cost = {
            "parameters": trained["parameters"],
            "train_bytes": report["peak_bytes"],
            "train_bytes_reserved": report["peak_reserved"],
            "memory_kind": report["peak_kind"],
            "inference_bytes": peak.bytes,
            "inference_bytes_reserved": peak.reserved,
            **{key: report[key] for key in ("steps", "samples", "step_seconds", "precision")},
            "train_seconds": report["seconds"],
            "score_seconds": seconds,
            "megapixels_per_second": sum(rect.area for rect in held_out) / 1e6 / seconds,
        }
    return Result(
        run_id=spec.run_id,
        status="ok",
        spec=spec,
        quality=outcome.quality,
        per_fragment=outcome.per_fragment,
        threshold=outcome.threshold,
        controls={**outcome.controls, "leak": trained.get("leak")},
        contract=trained.get("contract", {}),
        cost=cost,
        curve=trained["report"]["curve"] if trained else [],
        tiles=trained.get("tiles", {}),
        notes=trained.get("notes", []),
        environment=environment(spec.device),
    )


def _model_predictor(spec: RunSpec, folder: Path) -> Predict:
    from zoo.checkpoint import load_checkpoint
    from zoo.predict.tiles import predict_region
    from zoo.train.config import TrainConfig

    config = TrainConfig(**spec.train)
    loaded = load_checkpoint(folder / CHECKPOINT, spec.device)

    def predict(fragment: Fragment, rect: Rect) -> FloatMap:
        return predict_region(
            loaded.model,
            fragment,
            rect,
            loaded.contract,
            overlap=spec.overlap,
            batch_size=config.batch_size,
            device=spec.device,
            precision=config.precision,
            degrade=config.degrade,
        )

    return predict

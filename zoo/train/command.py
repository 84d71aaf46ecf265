"""The body of `python -m zoo.train`: fragments to tiles to a trained model in one file."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from data_recipes.fragment import Fragment, open_fragments
from data_recipes.recipe import load_recipe
from data_recipes.regions import Region, whole
from data_recipes.sampling import build_table
from data_recipes.split import Fold, folds, leak_report
from data_recipes.tiles import TileDataset, fit_contract
from zoo.configs import config_path
from zoo.device import resolve_device, resolve_precision
from zoo.registry import create_model, model_card, resolve_name
from zoo.train.config import load_train_config
from zoo.train.loop import TrainingInterrupted, train
from zoo.train.progress import duration, show_progress

if TYPE_CHECKING:
    from zoo.train.__main__ import TrainOptions

INTERRUPTED = 130


def train_command(options: TrainOptions) -> int:
    """Train as the command line says; 0 when done, 130 when interrupted. A user's mistake raises ValueError."""
    say = Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print
    device = resolve_device(options.device)
    config = load_train_config(
        config_path("train", options.config) if options.config else None,
        steps=options.steps,
        minutes=options.minutes,
        batch_size=options.batch_size,
        lr=options.lr,
        loss=options.loss,
        precision=options.precision,
        degrade=options.degrade,
        seed=options.seed,
        num_workers=options.workers,
    )
    name = resolve_name(options.model, device.type)
    card = model_card(name)
    out = options.out or Path("runs") / "train" / name.replace(":", ".")
    _check_writable(out)

    fragments = open_fragments(list(options.data))
    layers = min(fragment.depth for fragment in fragments.values())
    depth, tile = options.depth or min(card.depth, max(layers, 1)), options.tile or card.tile
    torch.manual_seed(config.seed)
    model = create_model(name, depth=depth, tile=tile)  # before the data is read: a wrong tile must show at once
    recipe = load_recipe(options.recipe).with_(tile=tile, samples=options.samples)
    fold = _fold(options.fold, fragments, options.buffer if options.buffer is not None else tile)
    region = fold.train if fold else {name: (whole(fragment.shape),) for name, fragment in fragments.items()}

    contract = fit_contract(
        fragments, region, depth=depth, tile=tile, offset=options.offset, clip=options.clip, seed=config.seed
    )
    table, report = build_table(fragments, region, recipe, seed=config.seed)
    if fold:
        leak_report(table, tile, fold).check()
    say(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters, {depth} layers of {tile} px")
    say(f"on {device} in {resolve_precision(config.precision, device)}, {_left_out(fold)}")
    Console(stderr=True).print(report.table())

    data = [item if item.startswith("phantom:") else str(Path(item).resolve()) for item in options.data]
    record = {"data": data, "recipe": recipe.model_dump(mode="json"), "fold": fold.as_dict() if fold else None}
    dataset = TileDataset(fragments, table, contract)
    try:
        with show_progress(name) as on_progress:
            done = train(
                model, dataset, config, device=device, out=out, on_progress=on_progress, name=name, record=record
            )
    except TrainingInterrupted as stop:
        print(stop, file=sys.stderr)
        return INTERRUPTED
    say(
        f"{done.steps} steps in {duration(done.seconds)}, loss {done.losses['loss']:.4f}, "
        f"peak memory {done.peak_bytes / 2**20:,.0f} MiB ({done.peak_kind})"
    )
    print(done.checkpoint)
    return 0


def _fold(number: int | None, fragments: Mapping[str, Fragment], buffer: int) -> Fold | None:
    if number is None:
        return None
    there = folds(fragments, buffer=buffer)
    if not 0 <= number < len(there):
        names = ", ".join(f"{index} {fold.name}" for index, fold in enumerate(there))
        raise ValueError(f"--fold {number} is not there; these are: {names}")
    return there[number]


def _left_out(fold: Fold | None) -> str:
    def rects(region: Region) -> str:
        return ", ".join(f"{name} {list(rect)}" for name, rects in region.items() for rect in rects)

    if fold is None:
        return "trained on everything: score it on fragments that are not among these"
    return f"left out: {rects(fold.test)} (test), {rects(fold.calibration)} (calibration), y0 y1 x0 x1 in px"


def _check_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {out}: cannot be made a folder: {error.strerror}; choose another") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise ValueError(f"--out {out} is not writable; choose another folder")

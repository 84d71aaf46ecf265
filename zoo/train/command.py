"""The body of `python -m zoo.train`: fragments to tiles to a trained model in one file."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from data_recipes.files import check_writable
from data_recipes.fragment import Fragment, absolute_data, open_fragments, refuse_test_phantoms
from data_recipes.recipe import load_recipe
from data_recipes.regions import Region, whole
from data_recipes.sampling import build_table
from data_recipes.split import Fold, leak_report
from data_recipes.split_spec import SplitSpec, build_folds
from data_recipes.tiles import TileDataset, fit_contract
from zoo.configs import config_path, list_configs
from zoo.device import resolve_device
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
    with _warnings_as_lines(say):
        return _train(options, say)


def _train(options: TrainOptions, say: Callable[[str], None]) -> int:
    device = resolve_device(options.device)
    name = resolve_name(options.model, device.type)
    card = model_card(name)
    settings = _settings_file(options.config, card.family)
    config = load_train_config(
        settings,
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
    out = options.out or Path("runs") / "train" / name.replace(":", ".")
    check_writable(out)

    fragments = _labelled(open_fragments(options.data), say)
    layers = min(fragment.depth for fragment in fragments.values())
    depth, tile = options.depth or min(card.depth, max(layers, 1)), options.tile or card.tile
    torch.manual_seed(config.seed)
    model = create_model(name, depth=depth, tile=tile)  # before the data is read: a wrong tile must show at once
    recipe = load_recipe(options.recipe).with_(tile=tile, samples=options.samples)
    buffer = options.buffer if options.buffer is not None else tile
    fold = _fold(options.fold, fragments, buffer, config.seed)
    region = fold.train if fold else {name: (whole(fragment.shape),) for name, fragment in fragments.items()}
    refuse_test_phantoms(fragments, region)

    say(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters, {depth} layers of {tile} px, on {device}")
    say(f"settings: {settings or 'the defaults'}, and the command line")
    for fragment in fragments.values():
        for note in fragment.notes:
            say(f"{fragment.name}: {note}")
    say(_left_out(fold))
    contract = fit_contract(
        fragments, region, depth=depth, tile=tile, offset=options.offset, clip=options.clip, seed=config.seed
    )
    table, report = build_table(fragments, region, recipe, seed=config.seed)
    if fold:
        leak_report(table, tile, fold).check()
    Console(stderr=True).print(report.table())

    record = {
        "data": absolute_data(options.data),
        "recipe": recipe.model_dump(mode="json"),
        "fold": fold.as_dict() if fold else None,
    }
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
        f"{done.steps} steps in {duration(done.seconds)} in {done.precision}, loss {done.losses['loss']:.4f}, "
        f"peak {done.peak_kind} {done.peak_bytes / 2**20:,.0f} MiB"
    )
    print(done.checkpoint)
    return 0


@contextmanager
def _warnings_as_lines(say: Callable[[str], None]) -> Iterator[None]:
    """Warnings as lines of the command's own, without the place in the code that they come from."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
        yield


def _settings_file(config: str | None, family: str) -> Path | None:
    """The file that --config names, else the family's; None where it has none."""
    if config:
        return config_path("train", config)
    return config_path("train", family) if family in list_configs("train") else None


def _labelled(fragments: Mapping[str, Fragment], say: Callable[[str], None]) -> dict[str, Fragment]:
    labelled = {name: fragment for name, fragment in fragments.items() if fragment.label is not None}
    if not labelled:
        raise ValueError(f"none of {', '.join(fragments)} has an ink label, so nothing can be trained on")
    for name in fragments.keys() - labelled.keys():
        say(f"{name}: no ink label, so it takes no part")
    return labelled


def _fold(number: int | None, fragments: Mapping[str, Fragment], buffer: int, seed: int) -> Fold | None:
    if number is None:
        return None
    there = build_folds(SplitSpec(), fragments, buffer=buffer, seed=seed)
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

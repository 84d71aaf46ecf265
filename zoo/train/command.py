"""The body of `python -m zoo.train`: fragments to tiles to a trained model in one file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from data_recipes.cli import duration
from data_recipes.files import check_writable
from data_recipes.fragment import Fragment, absolute_data, open_fragments, refuse_test_phantoms
from data_recipes.recipe import load_recipe
from data_recipes.regions import Region, whole
from data_recipes.sampling import build_table
from data_recipes.split import Fold, leak_report
from data_recipes.split_spec import SplitSpec, build_folds
from data_recipes.tiles import InputContract, TileDataset, fit_contract
from zoo.checkpoint import read_info
from zoo.configs import config_path, list_configs
from zoo.device import resolve_device
from zoo.registry import create_model, model_card, resolve_name
from zoo.train.config import load_train_config
from zoo.train.engine import rank
from zoo.train.given import given_weights, read_pairs, read_tasks, settings_file, with_tasks
from zoo.train.interrupt import TrainingInterrupted
from zoo.train.laps import laps_table
from zoo.train.loop import train
from zoo.train.plan import forget, held_to, keep, plan_batches, recall, room
from zoo.train.progress import show_progress
from zoo.train.report import finished_report, has_ended
from zoo.train.start import keep_source, recall_source, sha256_of, source_of, start_from
from zoo.train.state import BOTH, STATES, find_state, holds_whole_state

if TYPE_CHECKING:
    from zoo.train.__main__ import TrainOptions

INTERRUPTED = 130


def train_command(options: TrainOptions) -> int:
    """Train as the command line says; 0 when done, 130 when interrupted. A user's mistake raises ValueError."""
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True, quiet=rank() > 0)
    tables = Console(stderr=True, quiet=rank() > 0)  # with the markup that they are made of
    with _warnings_as_lines(console.print):
        return _train(options, console, tables)


def _train(options: TrainOptions, console: Console, tables: Console) -> int:
    say = console.print
    if options.overwrite and options.resume:
        raise ValueError(BOTH)
    device = resolve_device(options.device)
    name = resolve_name(options.model, device.type)
    card = model_card(name)
    out = options.out or Path("runs") / "train" / name.replace(":", ".")
    source, started_from = _source(options, out, say)
    chosen = read_pairs(options.options, "--options")
    weights = str(source or (started_from or {}).get("path", "")) or given_weights(chosen, card.init_options)
    settings = _settings(options.config, settings_file(name, card.family, pretrained=bool(weights)))
    config = load_train_config(
        *settings,
        steps=options.steps,
        tiles_seen=options.tiles_seen,
        minutes=options.minutes,
        flops=options.flops,
        batch_size=options.batch_size,
        lr=options.lr,
        loss=options.loss,
        augment=options.augment,
        precision=options.precision,
        degrade=options.degrade,
        seed=options.seed,
        num_workers=options.workers,
        tensorboard=options.tensorboard or None,
        cache_tiles=options.cache_tiles or None,
    )
    check_writable(out)
    if not (options.resume or options.overwrite):  # before the plan of the run that is there would be replaced
        finished_report(out, {}, resume=False)
        find_state(out / STATES, {}, resume=False, say=say)
    if source and options.overwrite and source.resolve().parent == out.resolve():
        raise ValueError(f"--start-from {source} lies in --out, which --overwrite clears; give another --out")
    if source:
        read_info(source)  # before the data is read: a wrong path must show at once

    fragments = _labelled(open_fragments(options.data), say)
    layers = min(fragment.depth for fragment in fragments.values())
    depth = min(card.depth, max(layers, 1)) if options.depth is None else options.depth
    tile = card.tile if options.tile is None else options.tile
    buffer = options.buffer if options.buffer is not None else tile
    fold = _fold(options.fold, fragments, buffer, config.seed)
    region = fold.train if fold else {name: (whole(fragment.shape),) for name, fragment in fragments.items()}
    refuse_test_phantoms(fragments, region)
    seen = list(dict.fromkeys([*region, *(fold.calibration if fold else ())]))
    tasks = read_tasks(options.tasks, seen, list(fragments))
    chosen = with_tasks(chosen, tasks)
    torch.manual_seed(config.seed)
    model = create_model(name, depth=depth, tile=tile, classes=options.classes, **chosen)  # before tiles are chosen
    budget = room(options.vram, options.ram, model, device)
    recipe = load_recipe(options.recipe).with_(tile=tile, samples=options.samples)

    every = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    part = "" if trained == every else f" ({trained:,} of them trained)"
    begins = f"starts from {weights or 'random weights'}"
    say(f"{name}: {every:,} parameters{part}, {begins}, {depth} layers of {tile} px, on {device}")
    say(f"settings: {', over it '.join(map(str, settings)) or 'the defaults'}, and the command line")
    for fragment in fragments.values():
        for note in fragment.notes:
            say(f"{fragment.name}: {note}")
    say(_left_out(fold))
    if tasks is not None:
        say(_told_tasks(tasks, fold))
    contract = fit_contract(
        fragments, region, depth=depth, tile=tile, offset=options.offset, clip=options.clip, seed=config.seed
    )
    table, report = build_table(fragments, region, recipe, seed=config.seed)
    if fold:
        leak_report(table, tile, fold).check()
    tables.print(report.table())

    if source:
        start_from(model, source, say)
        started_from = source_of(source, fold, contract, say)
    record = {
        "data": absolute_data(options.data),
        "recipe": recipe.model_dump(mode="json"),
        "fold": fold.as_dict() if fold else None,
        "train_rects": {name: [list(rect) for rect in rects] for name, rects in region.items()},
        "tasks": tasks,
        "weights": weights or "random",
        "started_from": started_from,
    }
    dataset = TileDataset(fragments, table, contract, tasks)
    validation = _validation(fragments, fold, contract, tasks) if config.validate_every else None
    if rank() == 0:
        keep_source(started_from, out)
        if not options.resume:
            forget(out)
    recalled = recall(config, out, say, given=options.vram or options.ram) if options.resume else None
    if recalled is not None:
        config = recalled
    elif budget is not None:
        different = len(set(tasks.values())) if tasks else 0
        config = plan_batches(
            model, config, budget, device=device, name=name, options=chosen, tasks=different, say=say
        ).config
        keep(config, out, options.vram or options.ram)
    try:
        with held_to(budget, device), show_progress(name, console) as on_progress:
            done = train(
                model,
                dataset,
                config,
                device=device,
                out=out,
                validation=validation,
                resume=options.resume,
                overwrite=options.overwrite,
                parallel=options.parallel,
                profile=options.profile,
                on_progress=on_progress,
                say=say,
                name=name,
                options=chosen,
                record=record,
            )
    except TrainingInterrupted as stop:
        say(str(stop))
        return INTERRUPTED
    say(
        f"{done.steps} steps in {duration(done.seconds)} in {done.precision}, loss {done.losses['loss']:.4f}, "
        f"peak {done.peak_kind} {done.peak_bytes / 2**20:,.0f} MiB"
    )
    if done.best_ap is not None:
        say(f"best on the tiles left out: AP {done.best_ap:.4f}, in {out / 'best.safetensors'}")
    if done.laps:
        tables.print(laps_table(done.laps))
    if rank() == 0:
        print(done.checkpoint)
    return 0


@contextmanager
def _warnings_as_lines(say: Callable[[str], None]) -> Iterator[None]:
    """Warnings as lines of the command's own, without the place in the code that they come from."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
        yield


def _settings(asked: str | None, of_the_model: Path | None) -> list[Path]:
    """Files of settings, later ones over earlier: one's own lies over the model's, a shipped one takes its place."""
    shipped = [] if of_the_model is None or asked in list_configs("train") else [of_the_model]
    return shipped + ([] if asked is None else [config_path("train", asked)])


def _source(options: TrainOptions, out: Path, say: Callable[[str], None]) -> tuple[Path | None, dict[str, Any] | None]:
    """The checkpoint to start from; and what is known of the one that a run started from which goes on.

    Raises:
        ValueError: a run that goes on had started from something else, or must start once more and its checkpoint has
            changed since.
    """
    asked = options.start_from
    if not options.resume:
        return asked, None
    recalled = recall_source(out, say)
    was = Path(recalled["path"]) if recalled else None
    if has_ended(out) or holds_whole_state(out / STATES):
        if asked and asked.absolute() != was and (recalled is None or sha256_of(asked) != recalled["sha256"]):
            raise ValueError(
                f"{out} holds a run that started from {was or 'random weights'}, not from --start-from {asked}; leave "
                "it out to go on with that run, or give another --out"
            )
        return None, recalled
    if recalled and was and not asked:  # stopped before it kept anything whole: it starts once more
        if sha256_of(was) != recalled["sha256"]:
            raise ValueError(
                f"{was} has changed since {out} started from it; --overwrite starts anew with what it is now"
            )
        return was, None
    return asked, None


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


def _validation(
    fragments: Mapping[str, Fragment], fold: Fold | None, contract: InputContract, tasks: Mapping[str, int] | None
) -> TileDataset:
    """The calibration strip that a fold leaves out, in tiles side by side: ink at its natural prevalence. Those of the
    last row and column overlap the ones before them."""
    if fold is None:
        raise ValueError("validate_every needs pixels that are left out; give --fold")
    recipe = load_recipe("grid").with_(tile=contract.tile, samples=None).model_copy(update={"stride": 1.0})
    table, _ = build_table(fragments, fold.calibration, recipe, seed=0)
    return TileDataset(fragments, table, contract, tasks)


def _told_tasks(tasks: Mapping[str, int], fold: Fold | None) -> str:
    told = "tasks: " + ", ".join(f"{task} {name}" for name, task in sorted(tasks.items(), key=lambda item: item[1]))
    without = [name for name in fold.test if name not in tasks] if fold else []
    if without:
        told += f"; {', '.join(without)} has none: to predict it, name the task that it comes nearest to"
    return told


def _left_out(fold: Fold | None) -> str:
    def rects(region: Region) -> str:
        return ", ".join(f"{name} {list(rect)}" for name, rects in region.items() for rect in rects)

    if fold is None:
        return "trained on everything: score it on fragments that are not among these"
    return f"left out: {rects(fold.test)} (test), {rects(fold.calibration)} (calibration), y0 y1 x0 x1 in px"

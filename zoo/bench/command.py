"""The body of `python -m zoo.bench`: suite and options to runs, runs to results, results to a leaderboard."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_recipes.files import check_writable
from data_recipes.formats.remote import is_url
from data_recipes.fragment import Fragment, absolute_data, open_fragments, refuse_test_phantoms
from data_recipes.schema import describe
from zoo.bench.cluster import cluster_device, run_all_on_cluster
from zoo.bench.expect import print_plan
from zoo.bench.merge import keep_record
from zoo.bench.names import slug
from zoo.bench.plan import RunSpec, plan_runs, resolve_models
from zoo.bench.report import make_console, report
from zoo.bench.result import Result
from zoo.bench.runner import finished, run_all
from zoo.bench.suite import ModelEntry, Suite, load_suite
from zoo.bench.sweep import Grid, read_sweep, trials, with_the_best
from zoo.configs import list_configs
from zoo.device import resolve_device
from zoo.registry import list_families, list_models, model_card
from zoo.significance import LETTER_PITCH
from zoo.train.config import BUDGET, TrainConfig, merge_settings

if TYPE_CHECKING:
    from zoo.bench.__main__ import BenchOptions


def bench(options: BenchOptions) -> int:
    """Run a bench; 0 when every run succeeded, 1 when one failed, 2 (raised as ValueError) for a user's mistake."""
    console = make_console()
    if options.list_all:
        _list(console)
        return 0
    suite = _apply(load_suite(options.suite), options)
    data = absolute_data(options.data or suite.data)
    if not data:
        raise ValueError(f"suite {suite.name} has no data of its own; give the fragments with --data PATH")
    on_cluster = options.engine == "ray"
    device = cluster_device(options.device, options.num_cpus) if on_cluster else str(resolve_device(options.device))
    models = resolve_models(suite, _split(options.models) or None, device)
    out = options.out or Path("runs") / "bench" / _folder(suite, options)
    if not options.dry_run:
        check_writable(out)
    fragments = open_fragments(data)
    overrides = _train_overrides(options)
    suite = _as_run(_fit_depth(suite, options, fragments, console), options, models, overrides)
    specs = plan_runs(
        suite,
        models,
        fragments,
        data=data,
        device=device,
        seeds=suite.seeds,
        folds=suite.folds,
        train=overrides,
    )
    tuning = trials(specs, suite.sweep)
    _check_models([*tuning, *specs])
    refuse_test_phantoms(fragments, {name for spec in specs for name in (*spec.train_rects, *spec.calibration_rects)})
    _announce(console, suite, tuning, specs, fragments, device, out)
    if options.dry_run:
        print_plan([*tuning, *_tuned(specs, tuning, out, suite.sweep)], out, console, here=not on_cluster)
        return 0

    def run(planned: list[RunSpec]) -> list[Result]:
        if on_cluster and planned:
            return run_all_on_cluster(planned, out, console, cpus=options.num_cpus)
        return run_all(planned, out, console)

    try:
        with _sigterm_as_interrupt():
            specs = with_the_best(specs, run(tuning), suite.sweep)
            keep_record(out, suite, specs, own_data=bool(options.data))
            results = run(specs)
            keep_record(out, suite, specs, own_data=bool(options.data))
    except KeyboardInterrupt:
        console.print("finished runs are kept; give the same command again to go on")
        raise
    report(results, fragments, suite, out, console, own_data=bool(options.data), pictures=options.pictures)
    return 0 if all(result.status == "ok" for result in results) else 1


def _folder(suite: Suite, options: BenchOptions) -> str:
    """Its own for other data: their leaderboards would take each other's place."""
    named = [slug(Path(item).name) for item in options.data]
    return "-".join([suite.name, *named])[:80]


def _tuned(specs: list[RunSpec], tuning: Sequence[RunSpec], out: Path, grid: Grid) -> list[RunSpec]:
    """The runs as they will be: with what won their trials once all of these have finished, before that as they are."""
    ended = [result for trial in tuning if (result := finished(out / "runs" / trial.run_id))]
    return with_the_best(specs, ended, grid) if len(ended) == len(tuning) else specs


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Inside the block SIGTERM does what Ctrl-C does. Main thread only, as signals are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _apply(suite: Suite, options: BenchOptions) -> Suite:
    keys = ("tile", "depth", "recipe", "samples", "letter_px")
    changed = {key: getattr(options, key) for key in keys if getattr(options, key) is not None}
    if options.sweep:
        changed["sweep"] = read_sweep(options.sweep)
    if options.budgets:
        changed["budgets"] = _numbers(options.budgets, "--budgets")
    if options.labels_turned:
        changed["labels_turned"] = True
    if options.data and suite.data:
        # The suite's split names the suite's own fragments, and its letters have the size of theirs.
        if suite.split.kind in ("fragments", "rects"):
            changed["split"] = {**suite.split.model_dump(), "kind": "auto", "train": [], "test": [], "calibration": []}
        if not all(item.startswith("phantom:") for item in options.data):
            changed.setdefault("letter_px", max(suite.letter_px, LETTER_PITCH))
    try:
        return Suite(**{**suite.model_dump(), **changed})
    except ValidationError as error:
        raise ValueError(f"suite {suite.name}: {describe(error, Suite)}") from None


def _as_run(suite: Suite, options: BenchOptions, models: Sequence[ModelEntry], overrides: Mapping[str, Any]) -> Suite:
    """The suite with what was asked for in place of its own, so that whatever shows it tells what was run.

    Of data that lie here their names alone: a leaderboard is made to be passed on, and paths are nobody else's.
    """
    own = {entry.label or entry.name for entry in suite.models}
    rows = [entry for entry in models if entry.label in own or entry.label not in suite.floors]
    asked = [key for key in (*_DECIDE_SCORES, *BUDGET) if getattr(options, key) not in (None, ())]
    if not suite.data:
        asked = [key for key in asked if key != "data"]  # it has none of its own and states no scores for it
    about = suite.about.strip()
    if asked:
        about = f"The settings of {suite.name} but for {', '.join(asked)}: the scores and times it states do not apply."
    changed = {
        "about": about,
        "data": [_name_of_data(item) for item in options.data] or suite.data,
        "seeds": _integers(options.seeds, "--seeds") or suite.seeds,
        "folds": _integers(options.folds, "--folds") or suite.folds,
        "models": [entry.model_copy(update={"train": _without(entry.train, overrides)}) for entry in rows],
        "train": merge_settings(suite.train, overrides),
    }
    return suite.model_copy(update=changed)


def _without(train: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A row's own training settings where the command line does not replace them."""
    kept = merge_settings(train, overrides)
    return {key: value for key, value in kept.items() if key not in overrides}


def _name_of_data(item: str) -> str:
    return item if item.startswith("phantom:") or is_url(item) else Path(item).resolve().name


_DECIDE_SCORES = ("data", "tile", "depth", "recipe", "samples", "sweep", "batch_size", "loss")


def _fit_depth(suite: Suite, options: BenchOptions, fragments: dict[str, Fragment], console: Console) -> Suite:
    """The suite with no more layers than the shallowest fragment has, unless --depth asks for them."""
    least = min((f.depth for f in fragments.values() if f.volume is not None), default=suite.depth)
    if least >= suite.depth:
        return suite
    if options.depth is not None:
        console.print(f"depth {suite.depth}: a fragment has {least} layers only; the outermost are repeated")
        return suite
    console.print(f"depth {least} instead of the suite's {suite.depth}: a fragment has no more layers")
    return suite.model_copy(update={"depth": least})


def _train_overrides(options: BenchOptions) -> dict[str, Any]:
    budget = [f"--{key.replace('_', '-')} {value}" for key in BUDGET if (value := getattr(options, key)) is not None]
    if len(budget) > 1:
        raise ValueError(
            f"the budget is one of --steps, --tiles-seen, --minutes or --flops; got {' and '.join(budget)}"
        )
    keys = (*BUDGET, "batch_size", "loss", "precision")
    return {key: getattr(options, key) for key in keys if getattr(options, key) is not None}


def _split(values: Sequence[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _integers(values: Sequence[str], option: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(part) for part in _split(values)))
    except ValueError:
        raise ValueError(f"{option} takes whole numbers, got {', '.join(values)}") from None


def _numbers(values: Sequence[str], option: str) -> list[float]:
    try:
        found = [float(part) for part in _split(values)]
    except ValueError:
        found = []
    if not found or min(found) <= 0:
        raise ValueError(f"{option} takes numbers above 0, got {', '.join(values)}")
    return found


def _check_models(specs: Sequence[RunSpec]) -> None:
    """Find a user's mistake in a row before the first run: unknown option, impossible tile or depth, bad setting."""
    from torch import device

    from zoo.losses import make_loss
    from zoo.registry import create_model

    for spec in {spec.label: spec for spec in specs if not spec.floor and not spec.labels_turned}.values():
        try:
            config = TrainConfig(**spec.train)
        except ValidationError as error:
            raise ValueError(f"{spec.label}: training settings: {describe(error, TrainConfig)}") from None
        try:
            make_loss(config.loss, smoothing=config.smoothing, classes=spec.classes)
        except ValueError as error:
            raise ValueError(f"{spec.label}: {error}") from None
        try:
            with device("meta"):
                create_model(spec.model, depth=spec.depth, tile=spec.tile, classes=spec.classes, **spec.options)
        except (NotImplementedError, RuntimeError):
            continue  # another package's model that cannot be built without weights; its run will tell


def _announce(
    console: Console,
    suite: Suite,
    tuning: Sequence[RunSpec],
    specs: Sequence[RunSpec],
    fragments: dict[str, Fragment],
    device: str,
    out: Path,
) -> None:
    head = f"[bold]inkzoo bench[/], suite [bold]{escape(suite.name)}[/] on {device}"
    count = (f"{len(tuning)} trials and " if tuning else "") + f"{len(specs)} runs"
    console.print(f"{head}: {count} into {escape(str(out))}")
    console.print(f"[dim]{escape(suite.about)}[/]")
    parts = {name for spec in specs for name in (*spec.train_rects, *spec.calibration_rects, *spec.test_rects)}
    for fragment in fragments.values():
        size = "×".join(map(str, fragment.shape))
        alone = () if fragment.name in parts else ("takes no part: " + _why_left_out(fragment),)
        notes = "".join(f"; {note}" for note in (*alone, *fragment.notes))
        console.print(f"  {escape(fragment.name)}: {fragment.depth} layers of {size} px[dim]{escape(notes)}[/]")
    names = {spec.label: spec.model for spec in specs}
    rows = (label if label == model else f"{label} ({model})" for label, model in names.items())
    console.print(f"  models: {escape('; '.join(rows))}\n")


def _why_left_out(fragment: Fragment) -> str:
    return "no ink label" if fragment.label is None else "the split does not name it"


def _list(console: Console) -> None:
    table = Table(title="suites", title_justify="left")
    table.add_column("name")
    table.add_column("about")
    for name in list_configs("suites"):
        table.add_row(name, escape(load_suite(name).about.strip()))
    console.print(table)
    table = Table(title="models (a family's name stands for its first on a CPU)", title_justify="left")
    for column in ("family", "name", "how it works"):
        table.add_column(column)
    for family in list_families():
        for name in list_models(family):
            table.add_row(family, name, escape(model_card(name).summary))
    console.print(table)

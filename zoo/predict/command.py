"""The bodies of `python -m zoo.predict` and `python -m zoo.predict reduce`."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.markup import escape

from data_recipes.cli import duration, stop_signals
from data_recipes.files import check_writable
from data_recipes.fragment import Fragment, absolute_data
from data_recipes.stamp import data_stamp
from zoo.checkpoint import Loaded
from zoo.cluster import worker_device
from zoo.device import resolve_device, resolve_precision
from zoo.ink_map import parse_region
from zoo.predict.finish import DEFAULT_THRESHOLD, add_forms, check_threshold, finish, form_of, partial_of, paths_of
from zoo.predict.fit import fit
from zoo.predict.job import Job, as_trained, load_models, make_job, open_segment, whole_shards
from zoo.predict.plan import CheckpointRef, Plan
from zoo.predict.progress import show_progress
from zoo.predict.store import PARTIAL, MapStore, remove_record
from zoo.predict.work import Timings

if TYPE_CHECKING:
    from zoo.predict.__main__ import PredictOptions, ReduceOptions

_BATCH = {"cpu": 8, "cuda": 32}
_CHUNK = 256
DEFAULT_OVERLAP = 0.5
_POLL_SECONDS = 0.5

Say = Callable[[str], None]


def predict_command(options: PredictOptions) -> int:
    """As `PredictOptions` says; 0 when the map or the part is there. A user's mistake raises ValueError."""
    if options.direction != "both":
        return _predict(options)
    outs = {
        way: options.out.with_name(f"{options.out.stem}.{way}{options.out.suffix}") for way in ("forward", "reverse")
    }
    if all(out.exists() for out in outs.values()):
        raise FileExistsError(f"{' and '.join(map(str, outs.values()))}: exist already; remove them")
    fragment, loaded = _open(options, torch.device("cpu"))
    for way in outs:  # before hours go into the first: the window of the other one may leave the volume
        fit(dataclasses.replace(options, direction=way), loaded[0][1].contract, fragment, lambda text: None)
    del fragment, loaded
    for way, out in outs.items():
        if not out.exists():  # one that is there was made before the command was interrupted
            _predict(dataclasses.replace(options, direction=way, out=out))
    return 0


def _predict(options: PredictOptions) -> int:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    part, parts, under_torchrun = _division(options)
    quiet = under_torchrun and part != 0
    say: Say = (lambda text: None) if quiet else (lambda text: console.print(escape(text)))
    check_writable(options.out.parent, "OUT")
    _check_options(options, under_torchrun)
    device, here = _devices(options, under_torchrun)
    fragment, loaded = _open(options, here)
    plan, fragment = _plan(options, fragment, loaded, device, say)
    store, job = _begin(options, plan, fragment, [one for _, one in loaded], device, here, say, console)
    _say_division(store, part, parts, say)
    began = time.monotonic()
    if under_torchrun:
        store.note(_begun_mark(part))
    if options.engine == "ray":
        from zoo.predict.cluster import predict_on_cluster

        predict_on_cluster(store, options, console)
    else:
        timings = _make_part(job, store, part, parts, console, quiet)
        say(_told_timings(timings, time.monotonic() - began))
    if parts > 1 and not under_torchrun:
        say(
            f"part {part} (ids go from 0 to {parts - 1}) is done; when all are: "
            f"python -m zoo.predict reduce {options.out}"
        )
        return 0
    if quiet:
        return 0
    while under_torchrun and not (_all_begun(store) and not store.missing()):
        time.sleep(_POLL_SECONDS)  # torchrun ends this process where another one fails
    _finish(store, options, console)
    return 0


def _open(options: PredictOptions, here: torch.device) -> tuple[Fragment, list[tuple[CheckpointRef, Loaded]]]:
    """The segment and the checkpoints that were named."""
    fragment = open_segment(absolute_data([options.segment])[0], None if options.mask is None else str(options.mask))
    return fragment, load_models([text.strip() for text in options.checkpoint.split(",") if text.strip()], here)


def _say_division(store: MapStore, part: int, parts: int, say: Say) -> None:
    """Where the work was shared out in another way before: that it is not now. What is done counts in any division."""
    every, missing = store.plan.part(0, 1), set(store.missing())
    if (before := store.parts()) == parts or len(missing.intersection(every)) == len(every):
        return
    own = store.plan.part(part, parts)
    count = sum(shard not in missing for shard in own)
    was, now = ("in 1 part" if number == 1 else f"in {number} parts" for number in (before, parts))
    mine = "" if parts == 1 else f" of part {part}"
    say(
        f"it was shared out {was}, and is {now} from here on: {count} of the {len(own)} shards{mine} are done already"
        + ("" if parts == 1 else f"; make all parts from 0 to {parts - 1}")
    )


def _all_begun(store: MapStore) -> bool:
    """Under torchrun: no process is still to open the store, which then must not have been given its name."""
    return all(store.noted(_begun_mark(rank)) for rank in range(int(os.environ["WORLD_SIZE"])))


def _begun_mark(rank: int) -> str:
    start = [os.environ.get(key, "") for key in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_PORT")]
    return f"begun-{'-'.join(start)}-{rank}"


def reduce_command(options: ReduceOptions) -> int:
    """As `ReduceOptions` says. A missing part raises ValueError that names it."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if options.out.name.endswith(PARTIAL):
        options = dataclasses.replace(options, out=options.out.with_name(options.out.name.removesuffix(PARTIAL)))
    form_of(options.out)
    remove_record(options.out)
    check_threshold(options.threshold)
    if options.out.exists():
        _say_written(add_forms(options.out, also=options.also, threshold=options.threshold), options, console)
        return 0
    if not partial_of(options.out).exists():
        raise FileNotFoundError(f"{options.out}: no such map, and none was begun ({partial_of(options.out).name})")
    store = MapStore.resume(partial_of(options.out))
    if missing := store.missing():
        parts = store.parts()
        told = f"{options.out} is not finished: {len(missing)} of {len(store.grid)} shards are missing"
        if parts == 1:
            raise ValueError(f"{told}; give the command that began it again, and it goes on")
        lacking = store.missing_parts(parts)
        named = ", ".join(f"{part} ({count} shard{'s' if count > 1 else ''})" for part, count in lacking)
        raise ValueError(
            f"{told}, of part {named}; make them with --num-parts {parts} --part-id {lacking[0][0]}"
            + (" and so on" if len(lacking) > 1 else "")
        )
    _finish(store, options, console)
    return 0


def _division(options: PredictOptions) -> tuple[int, int, bool]:
    """(part, parts, whether torchrun shares them out)."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
        if options.num_parts != 1:
            raise ValueError("torchrun shares the map out itself: leave --num-parts and --part-id out")
        return int(os.environ["RANK"]), world, True
    if options.num_parts < 1 or not 0 <= options.part_id < options.num_parts:
        hint = "; say with --num-parts how many there are" if options.num_parts == 1 else ""
        raise ValueError(
            f"--part-id {options.part_id} of --num-parts {options.num_parts} is not possible; ids go from 0 to "
            f"num-parts - 1{hint}"
        )
    if options.engine == "ray" and options.num_parts != 1:
        raise ValueError("ray shares the map out itself: leave --num-parts and --part-id out")
    return options.part_id, options.num_parts, False


def _devices(options: PredictOptions, under_torchrun: bool) -> tuple[torch.device, torch.device]:
    """Where the map is computed, and where this process keeps the models meanwhile: the CPU where only the workers of a
    cluster have a GPU."""
    name = options.device
    if options.engine == "ray" and (found := worker_device(name, options.num_cpus or 1)):
        device = torch.device(found)
        here = device if torch.cuda.is_available() else torch.device("cpu")
    else:
        if under_torchrun and name in ("auto", "cuda") and torch.cuda.is_available():
            name = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
        device = here = resolve_device(name)
    if options.precision != "auto":
        resolve_precision(options.precision, device)
    return device, here


def _check_options(options: PredictOptions, under_torchrun: bool) -> None:
    """Raise ValueError or FileExistsError for what cannot be, before anything is opened."""
    out = options.out
    paths = paths_of(out, options.also)
    remove_record(out)  # of a map that was finished by a process that was killed before it could tidy up
    taken = [path for path in paths.values() if path.exists()]
    if out.exists() or (taken and _begun(partial_of(out)) is None):
        there = "exists already; remove it" if len(taken) == 1 else "exist already; remove them"
        raise FileExistsError(f"{', '.join(map(str, taken))}: {there} or choose another name")
    check_threshold(options.threshold)
    _check_effects(options, set(paths), under_torchrun)
    if options.num_parts > 1 and not under_torchrun and (options.also or options.threshold is not None):
        raise ValueError("--also and --threshold belong to the whole map: give them to `python -m zoo.predict reduce`")
    if options.shard < _CHUNK or options.shard % _CHUNK:
        raise ValueError(f"--shard {options.shard} is not possible; a multiple of {_CHUNK} px")
    if options.batch_size is not None and options.batch_size < 1:
        raise ValueError(f"--batch-size {options.batch_size} is not possible; 1 or more")
    if options.voxel_size == "resample" and (options.layer_start, options.layer_end) != (None, None):
        raise ValueError("--layer-start and --layer-end count stored layers: leave them out with --voxel-size resample")


def _check_effects(options: PredictOptions, forms: set[str], under_torchrun: bool) -> None:
    """Raise ValueError for an option that something else given beside it leaves without effect."""
    if options.zarr_format != 3 and "zarr" not in forms:
        raise ValueError(
            f"--zarr-format {options.zarr_format} is about a .zarr, and {options.out.name} is none; leave it out, or "
            "name OUT.zarr"
        )
    if options.dtype == "float16" and not forms & {"zarr", "tif"}:
        raise ValueError(
            f"--dtype float16: {options.out.name} holds 8 bits; leave it out, name OUT.zarr or OUT.tif, or add --also "
            "tif"
        )
    if options.stride is not None and options.overlap is not None:
        raise ValueError("--stride and --overlap say the same in two ways: give one of them")
    if options.engine == "ray" and under_torchrun:
        raise ValueError("torchrun and --engine ray both share the map out: use one of them")
    if options.engine != "ray" and options.num_cpus is not None:
        raise ValueError("--num-cpus is of ray's workers: leave it out, or give --engine ray with it")


def _plan(
    options: PredictOptions,
    fragment: Fragment,
    loaded: list[tuple[CheckpointRef, Loaded]],
    device: torch.device,
    say: Say,
) -> tuple[Plan, Fragment]:
    """What is to be made, and the fragment as it is read. Whatever is not known or not as in training is said."""
    refs, first = [ref for ref, _ in loaded], loaded[0][1]
    stamp, path = data_stamp(fragment), str(fragment.path)
    contract, fragment, factor = fit(options, first.contract, fragment, say)
    tile = options.tile or contract.tile
    region = whole_shards([parse_region(text) for text in options.region], fragment.shape, options.shard)
    if region:
        rows = "; ".join(f"rows {y0} to {y1 - 1}, columns {x0} to {x1 - 1}" for y0, y1, x0, x1 in region)
        say(f"only {rows} are predicted: the shards that --region touches; the map is 0 elsewhere")
    return (
        Plan(
            fragment=fragment.name,
            path=path,
            stamp=stamp,
            mask=None if options.mask is None else str(options.mask.resolve()),
            shape=fragment.shape,
            region=region,
            checkpoints=tuple(refs),
            contract=contract.model_copy(update={"tile": tile}),
            voxel_um=fragment.voxel_um,
            resampled=factor,
            tile=tile,
            overlap=DEFAULT_OVERLAP if options.overlap is None else options.overlap,
            stride=options.stride,
            blend=options.blend,
            tta=options.tta,
            task=_task(options.task, first, fragment.name, say),
            precision="fp32" if options.precision == "auto" else options.precision,
            compiled=options.compile,
            batch_size=options.batch_size or _BATCH[device.type],
            dtype=options.dtype,
            zarr_format=options.zarr_format,
            shard=options.shard,
            chunk=_CHUNK,
        ),
        fragment,
    )


def _begin(
    options: PredictOptions,
    plan: Plan,
    fragment: Fragment,
    loaded: list[Loaded],
    device: torch.device,
    here: torch.device,
    say: Say,
    console: Console,
) -> tuple[MapStore, Job]:
    """The store, new or gone on with, and the job in the arithmetic that its plan says."""
    path = partial_of(options.out)
    begun = _begun(path)
    if begun is not None and options.precision == "auto":  # chosen once, by who came first
        plan = plan.model_copy(update={"precision": begun.precision})
    job = make_job(plan, fragment, as_trained(loaded), here)
    told = str(plan.precision)
    if begun is None and options.precision == "auto":
        if device.type == here.type:
            plan, moved = job.choose_precision()
        else:
            from zoo.predict.cluster import choose_on_cluster

            plan, moved = choose_on_cluster(plan, options, console)
        if plan.precision != "fp32":
            told = f"{plan.precision} (moves no probability by more than {max(moved, 1e-4):.4f})"
        elif moved:
            told = f"fp32 (bf16 would move a probability by {moved:.4f}, more than a grey value)"
    store = MapStore.begin(path, plan)
    wanted = plan.part(0, 1)
    for shard in set(store.missing()).difference(wanted):
        store.write(shard, None)
    height, width = plan.shape
    first, last = plan.contract.window(fragment)
    names = " + ".join(dict.fromkeys(ref.model for ref in plan.checkpoints))
    count = f" × {len(plan.checkpoints)}" if len(plan.checkpoints) > 1 else ""
    say(f"{plan.fragment}: {height}×{width} px, layers {first} to {last - 1}; {names}{count} on {device} in {told}")
    if begun is not None:
        say(f"going on in {path}: {len(set(wanted).difference(store.missing()))} of {len(wanted)} shards are done")
    return store, job


def _begun(path: Path) -> Plan | None:
    try:
        return MapStore.resume(path).plan
    except FileNotFoundError:
        return None


def _task(given: str | None, loaded: Loaded, fragment: str, say: Say) -> int | None:
    """The task's number, by number or by the name of a fragment that had it in training."""
    if int(loaded.options.get("tasks") or 1) == 1:
        if given is not None:
            raise ValueError(f"--task {given}: {loaded.name} was built for one task; leave it out")
        return None
    named: dict[str, int] = loaded.config.get("tasks") or {}
    wanted = fragment if given is None else given
    if wanted in named:
        say(f"task {named[wanted]}, that of {wanted}")
        return named[wanted]
    if wanted.isdecimal() and int(wanted) < int(loaded.options["tasks"]):
        return int(wanted)
    known = ", ".join(f"{number} ({name})" for name, number in named.items()) or f"0 to {loaded.options['tasks'] - 1}"
    missing = "is needed" if given is None else f"{given} is unknown"
    raise ValueError(f"{loaded.name} was built for several tasks: --task {missing}; give one of {known}")


def _make_part(job: Job, store: MapStore, part: int, parts: int, console: Console, quiet: bool) -> Timings:
    shards = job.plan.part(part, parts)
    pixels = sum(store.grid.rect(shard).area for shard in shards)
    label = job.plan.fragment if parts == 1 else f"{job.plan.fragment}, part {part} of {parts}"
    with (
        store.claim(part, parts),
        stop_signals() as stopped,
        show_progress(label, pixels, Console(stderr=True, quiet=quiet)) as on_progress,
    ):
        try:
            return job.run(store, shards, on_progress, stopped.is_set)
        except KeyboardInterrupt:
            console.print(f"what is done is kept in {escape(str(store.path))}; the same command goes on")
            raise


def _told_timings(timings: Timings, seconds: float) -> str:
    if not timings.tiles:
        return "nothing was left to compute"
    share = 100 * (seconds - timings.compute) / seconds
    return (
        f"{timings.tiles} tiles in {duration(seconds)}; {share:.1f} % of the time was not the model's "
        f"(waiting for layers to be read {timings.read:.1f} s, for shards to be written {timings.write:.1f} s)"
    )


def _finish(store: MapStore, options: PredictOptions | ReduceOptions, console: Console) -> None:
    _say_written(finish(store, options.out, also=options.also, threshold=options.threshold), options, console)


def _say_written(paths: list[Path], options: PredictOptions | ReduceOptions, console: Console) -> None:
    if {"mask", "csv"} & set(options.also) and options.threshold is None:
        console.print(
            f"no --threshold was given: ink is where the map's own says so, else {DEFAULT_THRESHOLD} and more"
        )
    for path in paths:
        console.print(f"[bold green]written[/] {escape(str(path))}")

"""The training loop, top to bottom: batch, augment, heads, loss, backward, clip, step, average, log, keep.

Every random choice of a step is a function of (seed, step) alone: which tiles, how they are augmented, what dropout
drops. So two runs of one configuration on one device see the same, whatever else the process did before, and a run that
is gone on from a saved state ends with the weights of the run that was never stopped.
"""

from __future__ import annotations

import math
import statistics
import time
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from data_recipes.augment import augment
from data_recipes.cli import stop_signals
from data_recipes.files import remove_partials
from data_recipes.tile_cache import CachedTiles
from data_recipes.tiles import TileDataset
from zoo.adapter import save_adapter_if_lora
from zoo.checkpoint import save_checkpoint
from zoo.cost import count_step_flops, weightless
from zoo.degrade import degrade
from zoo.device import to_channels_last
from zoo.losses import make_loss
from zoo.memory import PeakMemory, one_memory_error, out_of_memory
from zoo.models.base import InkModel
from zoo.models.layers import in_full
from zoo.train.average import averaged_weights, make_average, update_average
from zoo.train.batches import Batches, make_loader, read_on, step_seed, to_device
from zoo.train.config import TrainConfig
from zoo.train.engine import Parallel, check_sharded, make_fabric, training_precision
from zoo.train.interrupt import TrainingInterrupted, any_process, same_everywhere
from zoo.train.laps import AUGMENTATION, BACKWARD, COPYING, FORWARD, OPTIMIZER, REST, WAITING, Laps
from zoo.train.log import RunLog, curve, late_losses, mean_of
from zoo.train.optim import make_optimizer, schedule
from zoo.train.progress import Progress
from zoo.train.report import TrainingDiverged, TrainReport, finished_report, keep_report
from zoo.train.state import (
    BOTH,
    STATES,
    Counters,
    clear_run,
    drop_states,
    find_state,
    gathered,
    identity,
    load_state,
    save_state,
)
from zoo.train.step import batch_loss, in_float32, micro_batches, put_back
from zoo.train.validate import holds_ink, validate

_MOST_SKIPPED = 30  # steps in a row: an overflow of 2¹⁶, the scale that fp16 starts with, is over after 16
_MEMORY_ADVICE = "use a smaller batch, tile or depth, bf16, or a smaller variant of the model"


def train(
    model: InkModel,
    dataset: TileDataset,
    config: TrainConfig,
    *,
    device: torch.device | str,
    out: str | Path,
    validation: TileDataset | None = None,
    resume: bool = False,
    overwrite: bool = False,
    parallel: Parallel = "ddp",
    profile: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    record: Mapping[str, Any] | None = None,
) -> TrainReport:
    """Train `model` in place on tiles of (1, D, H, W); write `out`/last.safetensors and `out`/log.jsonl.

    Args:
        validation: tiles left out, for `config.validate_every`; the best of them is kept as `out`/best.safetensors.
        resume: go on from the newest whole state in `out`/state; from the beginning where there is none; a run that has
            ended is left as it is.
        overwrite: start anew where `out` holds a run, of which nothing is left.
        parallel: how several processes share the work, see `zoo.train.engine.make_fabric`.
        profile: measure what a step's time goes to; on a GPU this waits after each part, and costs a little.
        say: takes a line on what was decided on the way (a state that was damaged, a smaller micro-batch).
        name, options: what `create_model` was given, for the checkpoint; the card's name and no options by default.
        record: what else belongs into the checkpoint's configuration (recipe, fold, data), beside `train`.

    Raises:
        TrainingInterrupted: Ctrl-C or SIGTERM, after checkpoint and state were written.
        TrainingDiverged: a loss or gradient that is not finite, after the weights from before it were written.
        zoo.memory.OutOfMemoryError: not even one tile at a time fits; with what to change.
        OSError: a state or checkpoint cannot be written; those written before are as they were.
        ValueError: no tiles, tiles the model cannot take, nothing to train, or `out` holds a run that is neither to be
            resumed nor overwritten, or has other settings.
    """
    if not len(dataset):
        raise ValueError("there is not one tile to train on: check label and papyrus, or loosen the recipe")
    if config.validate_every and not (validation is not None and len(validation)):
        raise ValueError(f"validate_every={config.validate_every}, but no tiles are left out to validate on")
    if config.validate_every and validation and not holds_ink(validation):
        raise ValueError("the tiles to validate on hold no ink, so AP says nothing; take another --fold")
    if overwrite and resume:
        raise ValueError(BOTH)
    out, name = Path(out), name or model.card.name
    out.mkdir(parents=True, exist_ok=True)
    precision = training_precision(config.precision, model, torch.device(device))
    if parallel == "fsdp":
        check_sharded(config, precision)
    fabric = make_fabric(torch.device(device), precision, parallel)
    device, rank, first = fabric.device, fabric.global_rank, fabric.is_global_zero
    if first:
        remove_partials(out)
        remove_partials(out / STATES)
    who = identity(
        name, options or {}, model, dataset, config.deciding(), precision=precision, processes=fabric.world_size
    )
    found = None
    if not overwrite:
        ended = finished_report(out, who, resume=resume)
        if ended is not None:
            say(f"{out} holds this run, and it has ended; nothing is left to do")
            if first:
                drop_states(out / STATES)  # a kill may have come before
            return ended
        found = find_state(out / STATES, who, resume=resume, say=say)
    if found is not None:
        say(f"going on after step {found[1].step}, from {found[0].name}")
    if not same_everywhere(fabric, found[1].step if found else 0):
        raise ValueError(f"the processes do not see one --out: only some of them find a state in {out / STATES}")
    if resume and found is None:
        say(f"nothing to resume in {out}: starting from the beginning")
    most = _share_of_batch(config, fabric.world_size)
    asked = min(config.micro_batch or most, most)
    at = found[1] if found else Counters(micro_batch=asked)
    if asked > at.micro_batch:
        say(f"{at.micro_batch} tiles at once, as the run had come down to, not {asked}")
    at.micro_batch = min(at.micro_batch, asked)
    loss_of = make_loss(config.loss, smoothing=config.smoothing, classes=model.classes)
    step_flops = None if config.flops is None else _step_flops(model, dataset, config)
    if overwrite:
        if first:
            clear_run(out)
        fabric.barrier()  # or it could remove what another process has begun to write
    laps = Laps(device, enabled=profile)
    times: list[float] = []

    with (
        one_memory_error(f"training {name}", _MEMORY_ADVICE),
        PeakMemory(device, model) as peak,
        stop_signals() as stopped,
        RunLog(out, step=at.step, tensorboard=config.tensorboard, active=first) as log,
    ):
        sharded = parallel == "fsdp" and fabric.world_size > 1
        if not sharded:  # or else a unit after another goes to the device, which need not hold them all
            model.to(device)
        model.train()
        if config.channels_last and not sharded:  # FSDP shards contiguous weights only
            to_channels_last(model)
        model.set_grad_checkpointing(config.grad_checkpointing)
        average = make_average(model, config)
        if config.compile:  # bound again, because Fabric marks methods only
            model.heads = types.MethodType(torch.compile(type(model).heads), model)
        engine = fabric.setup_module(model, move_to_device=not sharded)
        engine.mark_forward_method("heads")
        made = make_optimizer(model, config, device, precision)  # not before: FSDP replaces the parameters
        optimizer = cast(Optimizer, fabric.setup_optimizers(made))
        scaler = getattr(fabric.strategy.precision, "scaler", None)  # of fp16
        if found:
            load_state(found[0], model, optimizer, average)
            if scaler is not None and at.scaler:
                scaler.load_state_dict(at.scaler)

        def keep(file: str) -> Path:
            weights = model.state_dict() if average is None else averaged_weights(average, model)
            whole = gathered(weights, keep=first)
            about = {"train": config.model_dump(mode="json"), "identity": who, **(record or {})}
            if first:
                save_checkpoint(
                    out / file,
                    model,
                    name=name,
                    options=options or {},
                    contract=dataset.contract,
                    config=about,
                    weights=whole,
                )
                save_adapter_if_lora(out / f"adapter-{file}", model, whole)
            return out / file

        def keep_state() -> None:
            at.scaler = {} if scaler is None else scaler.state_dict()
            save_state(out / STATES, model, optimizer, average, at, who, write=first)

        tiles = CachedTiles(dataset) if config.cache_tiles else dataset

        begun, whose = at.step, {"rank": rank, "processes": fabric.world_size}

        def load(number: int, workers: int | None) -> Iterable[dict[str, Any]]:
            return make_loader(tiles, config.batch_size, config.seed, device, workers, first=begun + number, **whose)

        batches = read_on(load, config.num_workers, stopped)
        start, saved = time.perf_counter() - at.seconds, time.perf_counter()
        share = _share(config, at, step_flops)
        while share < 1:
            laps.begin()
            began = time.perf_counter()
            rate = config.lr * schedule(share, config.warmup, config.schedule)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["lr_scale"]

            batch = next(batches)
            laps.lap(WAITING)
            batch = to_device(batch, device)
            laps.lap(COPYING)
            if config.augment is not None:
                draws = torch.Generator().manual_seed(step_seed(config.seed, at.step, "augment"))
                mine = slice(rank, None, fabric.world_size)  # of draws for the whole step
                batch = augment(batch, draws, config.augment, classes=model.classes, rows=mine, of=config.batch_size)
            volume, task = degrade(batch["volume"], config.degrade), batch.get("task")
            if config.channels_last:
                volume = volume.contiguous(memory_format=torch.channels_last_3d)
            model.check_input(volume)
            laps.lap(AUGMENTATION)

            before = [buffer.clone() for buffer in model.buffers()]  # a step that fails leaves no trace in the norms
            losses: dict[str, Tensor] | None = None
            while losses is None:
                torch.manual_seed(step_seed(config.seed, at.step, "model", rank))
                try:
                    losses = {}
                    for part, weight, last in micro_batches(len(volume), at.micro_batch):
                        label, mask = batch["label"][part], batch["mask"][part]
                        with fabric.no_backward_sync(engine, enabled=not last):
                            with fabric.autocast():  # on one device Fabric calls a marked method without its autocast
                                heads = engine.heads(volume[part], None if task is None else task[part])
                            laps.lap(FORWARD)
                            loss, parts = batch_loss(loss_of, in_float32(heads), label, mask, config.sample_losses)
                            fabric.backward(loss * weight)
                        for key, value in {"loss": loss.detach(), **parts}.items():
                            losses[key] = losses.get(key, 0.0) + value * weight
                        laps.lap(BACKWARD)
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error) or at.micro_batch == 1 or fabric.world_size > 1:
                        raise
                    losses, at.micro_batch = None, at.micro_batch // 2
                    heads = loss = parts = None  # or the graph of the attempt would be kept beside the next one
                    say(
                        f"out of memory in step {at.step + 1}: going on with {at.micro_batch} tiles at once, "
                        f"{config.batch_size} a step as before"
                    )
                    optimizer.zero_grad(set_to_none=True)
                    put_back(model, before)
                    if device.type == "cuda":
                        torch.cuda.empty_cache()

            highest = config.clip_norm or math.inf
            norm = fabric.clip_gradients(engine, optimizer, max_norm=highest, error_if_nonfinite=False)
            norm = math.inf if norm is None else float(in_full(norm))
            means = fabric.all_reduce(torch.stack(list(losses.values())), reduce_op="mean")
            values = dict(zip(losses, means.tolist(), strict=True))  # pyright: ignore[reportAttributeAccessIssue]
            finite = math.isfinite(values["loss"]) and math.isfinite(norm)
            overflow = scaler is not None and math.isfinite(values["loss"]) and not finite
            at.skipped = at.skipped + 1 if overflow else 0  # the scaler lowers its scale, and skips the step itself
            if not finite and not 0 < at.skipped <= _MOST_SKIPPED:
                put_back(model, before)
                keep_state()
                raise TrainingDiverged(
                    f"{name}: {_not_finite(values, at.step)}; its tiles: {_where(dataset, config, at.step)}; the "
                    f"weights from before it are in {keep('last.safetensors')}: --start-from them, in another --out, "
                    f"with a lower --lr{' or --precision fp32' * (precision != 'fp32')}"
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            laps.lap(OPTIMIZER)

            now = time.perf_counter()
            times.append(now - began)
            at.step, at.seconds = at.step + 1, fabric.broadcast(now - start)
            at.unlogged.append(values)
            earlier, share = share, _share(config, at, step_flops)
            if average is not None and not overflow:
                update_average(average, model, config, earlier, share)
            if at.step == 1 or at.step % config.log_every == 0 or share >= 1:
                line = {**mean_of(at.unlogged), "lr": rate, "grad_norm": norm, "seconds": round(at.seconds, 3)}
                log.write(at.step, line)
                at.unlogged = []
            if on_progress is not None and first:
                left = at.seconds * max(0.0, 1 / share - 1)
                speed = 1 / statistics.median(times[-20:])
                on_progress(Progress(at.step, min(share, 1.0), values["loss"], speed, at.seconds, left))
            if config.validate_every and validation and (at.step % config.validate_every == 0 or share >= 1):
                scored = model if average is None or not int(average.n_averaged) else average.module
                stood = time.perf_counter()
                score = validate(fabric, scored, validation, config, at.micro_batch, stopped)
                start += time.perf_counter() - stood  # minutes are of training
                log.write(at.step, {"validation_ap": score.ap, "validation_dice": score.dice}, score.tiles)
                at.since_best += 1
                better = at.best is None or score.ap > at.best
                say(f"step {at.step}: AP {score.ap:.4f} on the tiles left out{', the best so far' * better}")
                if better:
                    at.best, at.since_best = score.ap, 0
                    keep("best.safetensors")
                if config.patience and at.since_best >= config.patience:
                    say(f"stopped at step {at.step}: {config.patience} validations no better than AP {at.best:.4f}")
                    break
            due = time.perf_counter() - saved > 60 * config.checkpoint_minutes
            due = due or bool(config.checkpoint_steps and at.step % config.checkpoint_steps == 0)
            stop, due = any_process(fabric, stopped.is_set(), due)
            if share < 1 and (stop or due):
                keep_state()
                saved = time.perf_counter()
                if stop:
                    raise TrainingInterrupted(at.step, keep("last.safetensors"))
            laps.lap(REST)
        checkpoint = keep("last.safetensors")

    late: dict[str, float] = fabric.broadcast(late_losses(out / "log.jsonl", at.step) if first else {})
    report = TrainReport(
        steps=at.step,
        seconds=at.seconds,
        samples=at.step * config.batch_size,
        step_seconds=statistics.median(times) if times else at.seconds / max(1, at.step),
        losses=late,
        curve=fabric.broadcast(curve(out / "log.jsonl") if first else []),
        peak_bytes=peak.bytes,
        peak_kind=peak.kind,
        peak_reserved=peak.reserved,
        precision=precision,
        device=str(device),
        micro_batch=at.micro_batch,
        best_ap=at.best,
        checkpoint=str(checkpoint),
        log=str(out / "log.jsonl"),
        laps=laps.per_step(),
    )
    if first:
        keep_report(out, report, who)
        drop_states(out / STATES)
    return report


def _share_of_batch(config: TrainConfig, processes: int) -> int:
    """Tiles of a step that one process takes."""
    if config.batch_size % processes:
        raise ValueError(
            f"batch_size {config.batch_size} cannot be shared by {processes} processes; take a multiple of {processes}"
        )
    return config.batch_size // processes


def _share(config: TrainConfig, at: Counters, step_flops: int | None) -> float:
    """Of the budget, what is spent."""
    if config.steps is not None:
        return at.step / config.steps
    if config.tiles_seen is not None:
        return at.step * config.batch_size / config.tiles_seen
    if config.minutes is not None:
        return at.seconds / (60 * config.minutes)
    assert config.flops is not None and step_flops is not None
    return at.step * step_flops / config.flops


def _step_flops(model: InkModel, dataset: TileDataset, config: TrainConfig) -> int:
    """What a step adds to a budget in FLOPs; of a model conditioned on a task, on tiles of one task."""
    try:
        return count_step_flops(weightless(model), batch=config.batch_size, task=None if dataset.tasks is None else 0)
    except RuntimeError as error:  # a foreign model that reads the values of its tensors
        raise ValueError(
            f"the FLOPs of a step of {model.card.name} cannot be counted without weights ({error}); give the budget in "
            "steps, tiles_seen or minutes"
        ) from error


def _not_finite(losses: Mapping[str, float], step: int) -> str:
    wrong = [key for key, value in losses.items() if not math.isfinite(value)]
    what = f"{', '.join(wrong)} not finite" if wrong else "gradient not finite"
    return f"{what} in step {step + 1}"


def _where(dataset: TileDataset, config: TrainConfig, step: int) -> str:
    """`fragment y,x` of every tile of a step, whichever process had it."""
    drawn = next(iter(Batches(len(dataset), config.batch_size, config.seed, first=step)))
    rows = dataset.table[np.array(drawn)]
    return "; ".join(f"{name} {y},{x}" for name, y, x in zip(rows.names, rows.y, rows.x, strict=True))

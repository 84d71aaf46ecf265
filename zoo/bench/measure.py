"""The measuring of what a configuration costs (`zoo.bench.cost` keeps it): a stage is one call in a fresh process.

All libraries are loaded with this module, before memory is looked at.
"""

from __future__ import annotations

import itertools
import math
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from data_recipes.augment import augment
from zoo.bench.cost import INFERENCE, TRAINING, TRAINING_TILES, batches_that_fit, predicting
from zoo.bench.energy import joules
from zoo.bench.plan import RunSpec
from zoo.cost import count_cost, count_step_flops, without_weights
from zoo.degrade import degrade
from zoo.device import Chosen, autocast, resolve_precision, to_channels_last
from zoo.losses import make_loss
from zoo.memory import PeakMemory, one_memory_error, state_bytes
from zoo.models.base import InkModel, ink_probability
from zoo.registry import create_model, model_card
from zoo.train.average import make_average, update_average
from zoo.train.batches import step_seed, to_device
from zoo.train.config import TrainConfig
from zoo.train.engine import make_fabric, training_precision
from zoo.train.optim import make_optimizer
from zoo.train.probe import noise
from zoo.train.step import batch_loss, in_float32, micro_batches

_SHORTEST = 1.0  # s in which the energy counter moves often enough to be read


@dataclass(frozen=True)
class Repeats:
    """How often a piece of work is repeated: `least` times, then up to `most` until `seconds` are spent."""

    warm_up: int
    least: int
    most: int
    seconds: float


# A few seconds each. On a GPU long enough for its energy counter; on a CPU a training's peak grows for some ten steps,
# see zoo.train.probe.
ON_GPU = Repeats(5, 5, 1000, 2.0)
ON_CPU = {INFERENCE: Repeats(1, 3, 30, 2.0), TRAINING: Repeats(1, 3, 10, 8.0)}


def measure(stage: str, spec: RunSpec, repeats: Repeats | None = None) -> dict[str, Any]:
    """The figures of one stage. This must be a fresh process, or memory on a CPU comes out too small.

    Raises:
        zoo.memory.OutOfMemoryError: with what to change.
        ValueError: as `create_model` and the training loop.
    """
    how = repeats or (ON_GPU if spec.device.startswith("cuda") else ON_CPU[stage])
    with one_memory_error(f"measuring {spec.model}"):
        return _inference(spec, how) if stage == INFERENCE else _training(spec, how)


def _inference(spec: RunSpec, how: Repeats) -> dict[str, Any]:
    config, device = TrainConfig(**spec.train), torch.device(spec.device)
    model, size = _build(spec), config.batch_size
    precision = resolve_precision(config.precision, device)
    with PeakMemory(device, model) as peak, torch.inference_mode():
        model.to(device).eval()
        to_channels_last(model)
        tiles = torch.randn(size, 1, spec.depth, spec.tile, spec.tile, device=device)

        def batch() -> None:
            volume = degrade(tiles, config.degrade).contiguous(memory_format=torch.channels_last_3d)
            with autocast(precision, device):
                logits = model(volume)
            ink_probability(logits.float()).cpu()

        times, energy = _timed(batch, device, how)
    found = {
        **_spread("batch_seconds", times),
        "batch_size": size,
        "inference_bytes": peak.bytes,
        "inference_bytes_reserved": peak.reserved,
        "inference_joules_per_1000_tiles": None if energy is None else 1000 * energy / size,
        "memory_kind": peak.kind,
    }
    return found | predicting(spec, size, found["batch_seconds"])


def _training(spec: RunSpec, how: Repeats) -> dict[str, Any]:
    config, device = TrainConfig(**spec.train), torch.device(spec.device)
    model, size = _build(spec), config.batch_size
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    with PeakMemory(device, model) as peak:
        step = _steps(model, spec, config, training_precision(config.precision, model, device))
        numbers = itertools.count()
        times, energy = _timed(lambda: step(next(numbers)), device, how)
    forward, step_flops = _flops(spec, size)
    found = {
        **_spread("step_seconds", times),
        "parameters": parameters,
        "parameters_trained": trained,
        "tile_flops": forward,
        "step_flops": step_flops,
        "train_bytes": peak.bytes,
        "train_bytes_reserved": peak.reserved,
        "train_joules_per_1000_tiles": None if energy is None else 1000 * energy / size,
        "memory_kind": peak.kind,
    }
    found["train_36000_tiles_hours"] = TRAINING_TILES / size * found["step_seconds"] / 3600
    if config.micro_batch in (None, size):
        moments = 3 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)  # and gradients
        averaged = state_bytes(model) if config.ema or config.average_last else 0
        fixed = state_bytes(model) + moments + averaged
        found |= batches_that_fit(size, peak.bytes, fixed, on_gpu=device.type == "cuda")
    return found


def _build(spec: RunSpec) -> InkModel:
    """The run's model with random weights."""
    torch.manual_seed(0)
    return create_model(spec.model, depth=spec.depth, tile=spec.tile, classes=spec.classes, **_options(spec))


def _options(spec: RunSpec) -> dict[str, Any]:
    """Without those that only give weights to start from: they are read from a disk, and cost no step anything."""
    if not spec.options:
        return {}
    try:
        init = model_card(spec.model).init_options
    except ValueError:  # a foreign model without a card among its module's
        init = ()
    return {key: value for key, value in spec.options.items() if key not in init}


def _flops(spec: RunSpec, size: int) -> tuple[int | None, int | None]:
    """Of a tile on the way forward, and of a training step; None where they cannot be counted without weights."""
    try:
        with without_weights():
            model = create_model(spec.model, depth=spec.depth, tile=spec.tile, classes=spec.classes, **_options(spec))
        return count_cost(model).flops, count_step_flops(model, batch=size)
    except RuntimeError:  # a foreign model that reads the values of its tensors; ValueError is a mistake all the same
        return None, None


def _steps(model: InkModel, spec: RunSpec, config: TrainConfig, precision: Chosen) -> Callable[[int], None]:
    """A function that makes one step of the training loop, on noise that lies on the device already.

    It is given the step's number, which decides how tiles are augmented.
    """
    device, size = torch.device(spec.device), config.batch_size
    fabric = make_fabric(device, precision)
    loss_of = make_loss(config.loss, smoothing=config.smoothing, classes=spec.classes)
    model.to(device).train()
    if config.channels_last:
        to_channels_last(model)
    model.set_grad_checkpointing(config.grad_checkpointing)
    average = make_average(model, config)
    if config.compile:
        model.heads = types.MethodType(torch.compile(type(model).heads), model)
    engine = fabric.setup_module(model)
    engine.mark_forward_method("heads")
    optimizer: Any = fabric.setup_optimizers(make_optimizer(model, config, device, precision))
    tiles = noise(spec.depth, spec.tile, size, 0, classes=spec.classes)
    every = to_device(default_collate([tiles[index] for index in range(size)]), device)

    def step(number: int) -> None:
        batch = dict(every)
        if config.augment is not None:
            draws = torch.Generator().manual_seed(step_seed(0, number, "augment"))
            batch = augment(batch, draws, config.augment, classes=spec.classes, rows=slice(None), of=size)
        volume = degrade(batch["volume"], config.degrade)
        if config.channels_last:
            volume = volume.contiguous(memory_format=torch.channels_last_3d)
        for part, weight, _ in micro_batches(size, config.micro_batch or size):
            with fabric.autocast():
                heads = engine.heads(volume[part], None)
            loss, _ = batch_loss(
                loss_of, in_float32(heads), batch["label"][part], batch["mask"][part], config.sample_losses
            )
            fabric.backward(loss * weight)
        highest = config.clip_norm or math.inf
        float(fabric.clip_gradients(engine, optimizer, max_norm=highest, error_if_nonfinite=False) or 0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if average is not None:
            update_average(average, model, config, 0.995, 1.0)

    return step


def _timed(work: Callable[[], object], device: torch.device, how: Repeats) -> tuple[list[float], float | None]:
    """Seconds of each repeat, waited for, and joules of one; None where the driver or too short a time does not say."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(how.warm_up):
        work()
    wait()
    times: list[float] = []
    before, began = joules(device), time.perf_counter()
    while len(times) < how.least or (len(times) < how.most and time.perf_counter() - began < how.seconds):
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    spent, after = time.perf_counter() - began, joules(device)
    if before is None or after is None or spent < _SHORTEST:
        return times, None
    return times, (after - before) / len(times)


def _spread(name: str, times: list[float]) -> dict[str, Any]:
    """Median and quartiles of the repeats."""
    low, middle, high = (float(value) for value in np.percentile(times, (25, 50, 75)))
    return {name: middle, f"{name}_low": low, f"{name}_high": high, f"{name}_repeats": len(times)}

"""The training loop, top to bottom: batch, augment, heads, loss, backward, clip, step, log.

Every random choice of a step is a function of (seed, step) alone: which tiles, how they are augmented, what dropout
drops. So two runs of one configuration on one device see the same, whatever else the process did before.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from data_recipes.augment import augment
from data_recipes.tiles import TileDataset
from zoo.checkpoint import save_checkpoint
from zoo.degrade import degrade
from zoo.device import to_channels_last
from zoo.losses import make_loss
from zoo.memory import PeakMemory, one_memory_error
from zoo.models.base import Heads, InkModel
from zoo.train.batches import make_loader, step_seed, to_device
from zoo.train.config import TrainConfig
from zoo.train.optim import make_fabric, make_optimizer, schedule, training_precision
from zoo.train.progress import Progress

CURVE_POINTS = 200
_MEMORY_ADVICE = "use a smaller batch, tile or depth, bf16, or a smaller variant of the model"


@dataclass(frozen=True)
class TrainReport:
    """What a finished run did.

    Attributes:
        steps, seconds, samples: of the loop, data loading included.
        step_seconds: median over the steps.
        losses: `loss` and its parts, means over the last tenth of the steps.
        curve: (step, mean loss since the point before), at most `CURVE_POINTS`.
        peak_bytes, peak_kind, peak_reserved: as `zoo.memory.PeakMemory` has them, the weights among them.
        precision, device: what was used.
        checkpoint, log: where they lie.
    """

    steps: int
    seconds: float
    samples: int
    step_seconds: float
    losses: dict[str, float]
    curve: list[tuple[int, float]]
    peak_bytes: int
    peak_kind: str
    peak_reserved: int | None
    precision: str
    device: str
    checkpoint: str
    log: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; what was trained so far lies in `checkpoint`."""

    def __init__(self, step: int, checkpoint: Path):
        super().__init__(f"interrupted after step {step}: the model as it was then is in {checkpoint}")
        self.step = step
        self.checkpoint = checkpoint


class TrainingDiverged(ValueError):
    """The loss or its gradient is not finite; the message names the batch's tiles."""


def train(
    model: InkModel,
    dataset: TileDataset,
    config: TrainConfig,
    *,
    device: torch.device | str,
    out: str | Path,
    on_progress: Callable[[Progress], None] | None = None,
    name: str | None = None,
    options: Mapping[str, Any] | None = None,
    record: Mapping[str, Any] | None = None,
) -> TrainReport:
    """Train `model` in place on tiles of (1, D, H, W); write `out`/last.safetensors and `out`/log.jsonl.

    Args:
        name, options: what `create_model` was given, for the checkpoint; the card's name and no options by default.
        record: what else belongs into the checkpoint's configuration (recipe, fold, data), beside `train`.

    Raises:
        TrainingInterrupted: Ctrl-C or SIGTERM, after the checkpoint was written.
        TrainingDiverged: a loss or gradient that is not finite; no checkpoint is written.
        zoo.memory.OutOfMemoryError: with what to change.
        ValueError: no tiles, tiles the model cannot take, or nothing to train.
    """
    if not len(dataset):
        raise ValueError("there is not one tile to train on: check label and papyrus, or loosen the recipe")
    device, out, name = torch.device(device), Path(out), name or model.card.name
    out.mkdir(parents=True, exist_ok=True)
    precision = training_precision(config.precision, model, device)
    fabric = make_fabric(device, precision)
    loss_of = make_loss(config.loss, smoothing=config.smoothing, classes=model.classes)
    history: list[dict[str, float]] = []
    times: list[float] = []

    def save() -> Path:
        whole = {"train": config.model_dump(mode="json"), **(record or {})}
        return save_checkpoint(
            out / "last.safetensors", model, name=name, options=options or {}, contract=dataset.contract, config=whole
        )

    with (
        (out / "log.jsonl").open("w") as log,
        one_memory_error(f"training {name}", _MEMORY_ADVICE),
        PeakMemory(device, model) as peak,
        stop_signals() as stopped,
    ):
        model.to(device).train()
        if config.channels_last:
            to_channels_last(model)
        engine, optimizer = fabric.setup(model, make_optimizer(model, config, device))
        engine.mark_forward_method("heads")
        batches = iter(make_loader(dataset, config.batch_size, config.seed, device, config.num_workers))
        step, share = 0, 0.0
        start = now = time.perf_counter()
        while share < 1:
            began = time.perf_counter()
            rate = config.lr * schedule(share, config.warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate

            batch = to_device(next(batches), device)
            torch.manual_seed(step_seed(config.seed, step, "model"))
            if config.augment is not None:
                draws = torch.Generator().manual_seed(step_seed(config.seed, step, "augment"))
                batch = augment(batch, draws, config.augment)
            volume = degrade(batch["volume"], config.degrade)
            if config.channels_last:
                volume = volume.contiguous(memory_format=torch.channels_last_3d)
            model.check_input(volume)

            with fabric.autocast():  # on one device Fabric calls a marked method without its autocast
                heads = engine.heads(volume)
            loss, parts = loss_of(in_float32(heads), batch["label"], batch["mask"])
            fabric.backward(loss)
            highest = config.clip_norm or math.inf
            norm = fabric.clip_gradients(engine, optimizer, max_norm=highest, error_if_nonfinite=False)
            norm = math.inf if norm is None else float(norm)
            losses = {"loss": float(loss.detach()), **{key: float(part) for key, part in parts.items()}}
            if not (math.isfinite(losses["loss"]) and math.isfinite(norm)):
                raise TrainingDiverged(f"{name}: {_not_finite(losses, step)}; its tiles: {_where(dataset, batch)}")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            step += 1
            now = time.perf_counter()
            history.append(losses)
            times.append(now - began)
            share = (now - start) / (60 * config.minutes) if config.minutes else step / (config.steps or 1)
            if step == 1 or step % config.log_every == 0 or share >= 1:
                _log(log, step, _mean(history[-config.log_every :]), rate, norm, now - start)
            if on_progress is not None:
                left = (now - start) * max(0.0, 1 / share - 1)
                speed = 1 / statistics.median(times[-20:])
                on_progress(Progress(step, min(share, 1.0), losses["loss"], speed, now - start, left))
            if stopped.is_set() and share < 1:
                raise TrainingInterrupted(step, save())

    checkpoint = save()
    return TrainReport(
        steps=step,
        seconds=now - start,
        samples=step * config.batch_size,
        step_seconds=statistics.median(times),
        losses=_mean(history[-max(1, step // 10) :]),
        curve=thin([losses["loss"] for losses in history]),
        peak_bytes=peak.bytes,
        peak_kind=peak.kind,
        peak_reserved=peak.reserved,
        precision=precision,
        device=str(device),
        checkpoint=str(checkpoint),
        log=str(out / "log.jsonl"),
    )


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second Ctrl-C interrupts at once. Main thread only."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def on_signal(number: int, _frame: object) -> None:
        if event.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def in_float32(heads: Heads) -> Heads:
    """The heads with everything that was computed in half precision brought to float32."""
    aux = {key: value.float() if value.is_floating_point() else value for key, value in heads.aux.items()}
    return Heads([logits.float() for logits in heads.logits], aux)


def thin(values: Sequence[float], points: int = CURVE_POINTS) -> list[tuple[int, float]]:
    """(last step, mean) of at most `points` stretches of equal length to a step."""
    count = len(values)
    ends = sorted({count * (k + 1) // min(points, count) for k in range(min(points, count))})
    starts = [0, *ends[:-1]]
    return [(end, statistics.fmean(values[begin:end])) for begin, end in zip(starts, ends, strict=True)]


def _mean(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: statistics.fmean(entry[key] for entry in losses) for key in losses[0]}


def _log(log: TextIO, step: int, losses: Mapping[str, float], rate: float, norm: float, seconds: float) -> None:
    line = {"step": step, **losses, "lr": rate, "grad_norm": norm, "seconds": round(seconds, 3)}
    log.write(json.dumps(line) + "\n")
    log.flush()


def _not_finite(losses: Mapping[str, float], step: int) -> str:
    wrong = [key for key, value in losses.items() if not math.isfinite(value)]
    what = f"{', '.join(wrong)} not finite" if wrong else "gradient not finite"
    return f"{what} in step {step + 1} (use a lower --lr, or fp32)"


def _where(dataset: TileDataset, batch: Mapping[str, Tensor]) -> str:
    """`fragment y,x` of every tile of a batch."""
    rows = dataset.table[batch["index"].numpy()]
    return "; ".join(f"{name} {y},{x}" for name, y, x in zip(rows.names, rows.y, rows.x, strict=True))

"""Batches that fit: from a budget of memory to what is computed at once, each choice tried by a measured probe.

The batch of a step stays what the settings say; only how much of it is computed at once changes, and how. No formula
extrapolates: what is chosen has been trained for a few steps under the limit (`zoo.train.probe`), and the peak that is
expected is the peak of those steps. That holds for what no line through two points describes, such as augmentation,
which works on the whole batch whatever is computed at once. Ways to save, by what they cost, the cheapest first:

1. Everything at once.
2. Fewer tiles at once, the gradients of several parts added up: hardly slower down to `FEW` tiles. Below, a device
   idles and BatchNorm has few tiles to average over.
3. Activation checkpointing, where the model offers it: about a third more time, the same weights. Taken where it
   allows more tiles at once than 2 did.
4. Half precision where `auto` had chosen fp32, because the device does not compute bf16 natively: bf16 on a CPU, where
   that is slow, fp16 on a GPU. A precision that was asked for by name stays.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from data_recipes.files import whole_file
from zoo.device import Chosen, Precision
from zoo.memory import anonymous_bytes, state_bytes
from zoo.models.base import InkModel
from zoo.train import probe
from zoo.train.config import TrainConfig
from zoo.train.engine import training_precision, world_size

MARGIN = 0.1  # of the budget, kept free: peaks differ from run to run
CONTEXT = 5 * 10**8  # bytes that a GPU's context and libraries take, of which torch's allocator does not know
FEW = 4  # tiles at once, under which activation checkpointing is the better way to save
_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_FILE, _CHOSEN, _GIVEN = "plan.json", {"micro_batch", "grad_checkpointing", "precision"}, "size"
_CGROUP = Path("/sys/fs/cgroup")

Measure = Callable[[TrainConfig, int], int | None]  # (settings, limit in bytes) -> peak bytes; None: beyond the limit


@dataclass(frozen=True)
class Plan:
    """What was chosen: the settings that say it, and the peak in bytes that was measured with them."""

    config: TrainConfig
    peak_bytes: int


def parse_size(text: str) -> int:
    """Bytes of `12GB`, `1.5 GiB` or `12000MB`: GB is 10⁹ bytes, GiB 2³⁰.

    Raises:
        ValueError: anything else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text.strip())
    size = int(float(found[1]) * _UNITS.get(found[2].upper(), 0)) if found else 0
    if size <= 0:
        raise ValueError(
            f"got {text!r} as a size of memory; give a number and MB, GB, MiB or GiB, such as 12GB, or free"
        )
    return size


def room(vram: str | None, ram: str | None, model: InkModel, device: torch.device) -> int | None:
    """Bytes that training may take at its peak, weights included, by `--vram` or `--ram`; None where neither is given.

    On a CPU a size is that of the whole process: what it holds already, besides the weights, is taken off.

    Raises:
        ValueError: not a size, more than is free, of the other kind of device, or for several processes.
    """
    on_gpu = device.type == "cuda"
    given, other = (vram, ram) if on_gpu else (ram, vram)
    name = "--vram" if on_gpu else "--ram"
    if other is not None:
        hint = "use --vram, or --device cpu" if on_gpu else "use --ram, or --device cuda where there is a GPU"
        raise ValueError(f"{'--ram' if on_gpu else '--vram'} {other}: training is on {device}; {hint}")
    if given is None:
        return None
    if world_size() > 1:
        raise ValueError(
            f"{name} plans for one process, and this is one of {world_size()}; plan in a run without torchrun, then "
            "set micro_batch and grad_checkpointing in --config"
        )
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else _free_ram()
    weights = 0 if on_gpu else state_bytes(model)
    if given.strip().lower() == "free":
        return free + weights
    held = 0 if on_gpu else anonymous_bytes()
    size = parse_size(given)
    if size > free + held:
        raise ValueError(f"{name} {given}: only {_gb(free + held)} are free; give less, or {name} free")
    if size <= held:
        raise ValueError(f"{name} {given}: Python and its libraries alone hold {_gb(held)}; give more")
    return size - held + weights


@contextmanager
def held_to(budget: int | None, device: torch.device) -> Iterator[None]:
    """On a GPU, what torch allocates in the block stays within `budget` (see `room`), so that a step which needs more
    runs out of memory as on a GPU of that size, and goes on with fewer tiles at once. No limit for None."""
    if budget is None or device.type != "cuda":
        yield
        return
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(0, budget - CONTEXT) / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def fit(
    config: TrainConfig,
    budget: int,
    measure: Measure,
    *,
    can_checkpoint: bool,
    half: Precision | None,
    spare: int = 0,
) -> Plan:
    """The settings that fit into `budget` bytes less `MARGIN` at the least cost in time.

    Args:
        config: as asked; its `micro_batch` is the most that is tried.
        half: the precision to fall back on; None where there is none or another was asked for.
        spare: bytes that stay free where `MARGIN` is less.

    Raises:
        DoesNotFit: nothing does; with the settings that need least.
    """
    limit = max(0, min(int(budget * (1 - MARGIN)), budget - spare))
    sizes = even_parts(config.batch_size, config.micro_batch)
    best = _largest(config, sizes, limit, measure)
    if best and _at_once(best) >= min(FEW, sizes[0]):
        return best
    checkpointed = None
    if can_checkpoint and not config.grad_checkpointing:
        checkpointed = config.model_copy(update={"grad_checkpointing": True})
        larger = [size for size in sizes if best is None or size > _at_once(best)]
        best = _largest(checkpointed, larger, limit, measure) or best
    if best:
        return best
    ways = [way for way in (config, checkpointed) if way]
    if half:
        ways = [way.model_copy(update={"precision": half}) for way in ways]
        for way in ways:
            best = _largest(way, sizes, limit, measure)
            if best:
                return best
    raise DoesNotFit(ways[-1].model_copy(update={"micro_batch": 1}))


class DoesNotFit(ValueError):
    """Not one tile at a time fits; `least` are the settings that come nearest."""

    def __init__(self, least: TrainConfig):
        super().__init__("not even one tile at a time fits")
        self.least = least


def plan_batches(
    model: InkModel,
    config: TrainConfig,
    budget: int,
    *,
    device: torch.device,
    name: str,
    options: Mapping[str, Any] | None = None,
    tasks: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Plan:
    """`config` with what lets `model` train within `budget` bytes (see `room`); `say` takes what is tried, each
    time by a training of a few steps, then the choice and its peak.

    Args:
        name, options: what `create_model` was given: the probe builds the model again, in a process of its own, with
            random weights.
        tasks: how many tasks the tiles are of, a batch of as many as can be; 0 where they have none.

    Raises:
        ValueError: nothing fits; with what would be needed and what to change.
        RuntimeError: the probe fails for another reason than memory.
    """

    def measure(settings: TrainConfig, limit: int) -> int | None:
        at_once = settings.micro_batch or settings.batch_size
        say(f"trying {at_once} {'tiles' if at_once > 1 else 'tile'} at once, in {_how(settings, model, device)}")
        return probe.measure(
            probe.Probe(
                model=name,
                options={key: value for key, value in (options or {}).items() if key not in model.card.init_options},
                depth=model.depth,
                tile=model.tile,
                classes=model.classes,
                tasks=tasks,
                device=str(device),
                config=settings,
                limit=limit,
            )
        )

    half = _half(config, model, device)
    on_gpu = device.type == "cuda"
    spare = CONTEXT if on_gpu else 0
    kind = "GPU memory" if on_gpu else "main memory (Python and its libraries not counted)"
    say(f"measuring what fits into {_gb(budget)} of {kind}")
    try:
        plan = fit(config, budget, measure, can_checkpoint=model.can_checkpoint, half=half, spare=spare)
    except DoesNotFit as nothing:
        need = measure(nothing.least, _most(device))
        takes = f"takes {_gb(need)}" if need else f"takes more than the {_gb(_most(device))} that are there"
        held = 0 if on_gpu else anonymous_bytes() - state_bytes(model)
        option = "--vram" if on_gpu else "--ram"
        enough = max(need / (1 - MARGIN), need + spare) + held if need else 0
        wanted = f", or give {option} {math.ceil(enough / 1e6)}MB" if need else ""
        raise ValueError(
            f"{name} with {model.depth} layers of {model.tile} px does not fit into {_gb(budget)} of {kind}, of which "
            f"{_gb(max(budget * MARGIN, spare))} stay free: one tile at a time in "
            f"{_how(nothing.least, model, device)}, {takes}; use a smaller --tile, --depth or "
            f"--batch-size, a smaller variant of the model{_precision_hint(config)}{wanted}"
        ) from None
    for line in told(plan, model, device):
        say(line)
    return plan


def keep(planned: TrainConfig, out: Path, given: str | None = None) -> None:
    """Leave word of a plan in a run's folder, for `recall`; `given`: the size it was made for, as it was asked for."""
    with whole_file(out / _FILE) as partial:
        chosen = planned.model_dump(mode="json", include=_CHOSEN)
        partial.write_text(json.dumps({**chosen, _GIVEN: given}), encoding="utf-8")


def recall(
    config: TrainConfig, out: Path, say: Callable[[str], None] = lambda line: None, *, given: str | None = None
) -> TrainConfig | None:
    """`config` as it was planned for the run in this folder; None where it was not: a resumed run must go on as it did,
    whatever a new measurement says. Unless another size is `given` than the plan was made for, which is said. A file
    that is damaged is named in `say`, and passed over."""
    try:
        found = json.loads((out / _FILE).read_text(encoding="utf-8"))
        chosen = TrainConfig.model_validate({key: found[key] for key in _CHOSEN})
        before = found.get(_GIVEN)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        say(f"{out / _FILE}: damaged, or not a plan; it is passed over")
        return None
    if given is not None and given != before:
        say(f"the run was planned for {before or 'another size'}, and {given} is given now: it is planned anew")
        return None
    return config.model_copy(update=chosen.model_dump(include=_CHOSEN))


def forget(out: Path) -> None:
    """Remove what `keep` left, before a run that starts anew."""
    (out / _FILE).unlink(missing_ok=True)


def told(plan: Plan, model: InkModel, device: torch.device) -> list[str]:
    """What was chosen, what peak is expected and what it consists of; and what computing in parts changes."""
    config, whole = plan.config, plan.config.batch_size
    parts = -(-whole // _at_once(plan))
    at_once = f"all {whole} tiles of a step at once"
    if parts > 1:
        at_once = f"{_at_once(plan)} tiles at once, {parts} times a step, for {whole} tiles a step as before"
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    pieces = {
        "weights": state_bytes(model),
        "gradients": trained,
        "optimizer": 2 * trained,
        "averaged weights": state_bytes(model) if config.ema or config.average_last else 0,
        "batch": whole * model.tile**2 * (4 * model.depth + 2),  # float32 layers, label and mask a byte each
    }
    rest = max(0, plan.peak_bytes - sum(pieces.values()))
    known = ", ".join(f"{what} {_gb(size)}" for what, size in pieces.items() if size)
    steps = probe.STEPS[device.type]
    lines = [
        f"planned: {at_once}, in {_how(config, model, device)}",
        f"expected peak: {_gb(plan.peak_bytes)}, measured over {steps} steps ({known}, activations and workspace "
        f"{_gb(rest)})",
    ]
    norms = any(isinstance(module, _BatchNorm) for module in model.modules())
    what = ["BatchNorm's averages"] * norms
    if not config.sample_losses:
        what.append("losses (such as Dice, and all where parts differ in supervised pixels)")
    if parts > 1 and what:
        lines.append(f"not exactly the objective of all tiles at once: {' and '.join(what)} are of a part's tiles")
    return lines


def even_parts(batch: int, most: int | None = None) -> list[int]:
    """Sizes to compute a batch in, largest first: for each number of parts the smallest size that does with it."""
    sizes = {-(-batch // parts) for parts in range(1, batch + 1)}
    return sorted((size for size in sizes if size <= (most or batch)), reverse=True)


def _largest(config: TrainConfig, sizes: list[int], limit: int, measure: Measure) -> Plan | None:
    """The largest of `sizes` (descending) that stays within `limit`: the first, else by halving what is left."""

    def attempt(size: int) -> Plan | None:
        chosen = config.model_copy(update={"micro_batch": size})
        peak = measure(chosen, limit)
        return None if peak is None or peak > limit else Plan(chosen, peak)

    if not sizes:
        return None
    best = attempt(sizes[0])
    low, high = (0, 0) if best else (1, len(sizes))
    while low < high:
        middle = (low + high) // 2
        tried = attempt(sizes[middle])
        if tried:
            best, high = tried, middle
        else:
            low = middle + 1
    return best


def _at_once(plan: Plan) -> int:
    return plan.config.micro_batch or plan.config.batch_size


def _half(config: TrainConfig, model: InkModel, device: torch.device) -> Precision | None:
    """The half precision that `auto` left aside and that `model` can be trained in."""
    if config.precision != "auto" or _precision("auto", model, device) != "fp32":
        return None
    half = "fp16" if device.type == "cuda" else "bf16"
    return half if _precision(half, model, device) == half else None


def _precision(asked: Precision, model: InkModel, device: torch.device) -> Chosen:
    with warnings.catch_warnings():  # the training itself will warn
        warnings.simplefilter("ignore")
        return training_precision(asked, model, device)


def _how(config: TrainConfig, model: InkModel, device: torch.device) -> str:
    checkpointing = "with" if config.grad_checkpointing else "without"
    return f"{_precision(config.precision, model, device)}, {checkpointing} activation checkpointing"


def _precision_hint(config: TrainConfig) -> str:
    return ", --precision bf16" if config.precision == "fp32" else ""


def _most(device: torch.device) -> int:
    """Bytes that a probe may take where only the machine sets a limit."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else int(_free_ram() * (1 - MARGIN))


def _free_ram() -> int:
    """Bytes of main memory that can be had: the machine's, or what a container's limit leaves of it."""
    free = psutil.virtual_memory().available
    try:
        most = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return free
    if most == "max":
        return free
    return min(free, max(0, int(most) - used + int(stat.get("inactive_file", 0))))  # cached files give way


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e10 else f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"

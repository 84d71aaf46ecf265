"""What a training takes at its peak, found by doing its first steps: `python -m zoo.train.probe` in a fresh process.

The probe is the training loop itself, on noise in place of layers: the same model, batch, augmentation, loss, precision
and optimizer, so whatever changes there changes here. A process of its own, because memory that was freed before and is
used again does not show on a CPU, and because it must be able to end at a limit without harm. It reads a `Probe` as
JSON from stdin, writes to the folder it is given, and its last line on stdout is the peak in bytes, or `null` where the
limit was passed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from data_recipes.formats.arrays import FullPlane, LazyArray
from data_recipes.fragment import Fragment
from data_recipes.table import SampleTable
from data_recipes.tiles import InputContract, TileDataset
from zoo.memory import OutOfMemoryError, anonymous_bytes, state_bytes
from zoo.models.base import InkModel
from zoo.registry import create_model
from zoo.train.config import BUDGET, TrainConfig
from zoo.train.loop import train

# The first step has no optimizer's state yet. From the second on every step holds the same but for what augmentation
# draws. A CPU's allocator leaves gaps besides, which grow for about ten steps: sam_tiny's peak was 249 MB after 3
# steps, 268 after 6, 287 after 9, and 287 after 20.
STEPS = {"cpu": 12, "cuda": 4}
_WATCH_SECONDS = 0.003  # the pause of the watch on a CPU's limit: a few MB at the rate at which memory is first touched
_LOADING = 64 * 2**20  # libraries that the loop loads before it starts to measure
_PASSED = "null"
_LAUNCHER = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID"}


class Probe(BaseModel):
    """One training whose peak is wanted.

    Attributes:
        model, options, depth, tile, classes: what `create_model` is given.
        tasks: how many tasks the tiles are of; 0: none.
        device: as torch names it.
        config: of the training. Its budget, validation and log play no part.
        limit: bytes at which the probe ends; on a GPU of what its allocator may reserve.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    options: dict[str, Any] = {}
    depth: int
    tile: int
    classes: int = 1
    tasks: int = 0
    device: str
    config: TrainConfig
    limit: int


def measure(probe: Probe) -> int | None:
    """Peak bytes of a training, as `zoo.memory.PeakMemory` has them, from a fresh process; None: more than the limit.

    Raises:
        RuntimeError: the training fails for another reason than memory; with what it said.
    """
    environment = {key: value for key, value in os.environ.items() if key not in _LAUNCHER}
    with tempfile.TemporaryDirectory() as out:  # removed here, because the probe may end without a chance to
        command = [sys.executable, "-m", "zoo.train.probe", out]
        done = subprocess.run(command, input=probe.model_dump_json(), env=environment, capture_output=True, text=True)
    if done.returncode == -9:  # the system itself ran out of memory before the limit was seen
        return None
    if done.returncode:
        said = "; ".join(done.stderr.strip().splitlines()[-1:]) or f"exit status {done.returncode}"
        raise RuntimeError(f"the memory of a training of {probe.model} could not be measured: {said}")
    last = done.stdout.strip().splitlines()[-1]
    return None if last == _PASSED else int(last)


def run(probe: Probe, out: Path) -> int | None:
    """The same in this process, which must be a fresh one and on a CPU ends where the limit is passed.

    `out`: an empty folder for what a training writes.
    """
    device = torch.device(probe.device)
    config = probe.config.model_copy(
        update={
            **dict.fromkeys(BUDGET),
            "steps": STEPS[device.type],
            "validate_every": None,
            "patience": None,
            "checkpoint_minutes": 1e9,
            "checkpoint_steps": None,
            "tensorboard": False,
            "cache_tiles": False,
            "num_workers": 0,
        }
    )
    torch.manual_seed(config.seed)
    model = create_model(probe.model, depth=probe.depth, tile=probe.tile, classes=probe.classes, **probe.options)
    tiles = noise(
        probe.depth, probe.tile, config.batch_size, config.seed, classes=probe.classes, tasks=probe.tasks or None
    )
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, probe.limit / total), device)

    def halved(line: str) -> None:  # the loop would go on with a smaller micro-batch than is asked about
        raise OutOfMemoryError(line)

    try:
        with _watched(model, device, probe.limit):
            done = train(model, tiles, config, device=device, out=out, say=halved)
    except OutOfMemoryError:
        return None
    return done.peak_bytes if done.peak_bytes <= probe.limit else None


@contextlib.contextmanager
def _watched(model: InkModel, device: torch.device, limit: int):
    """On a CPU, end the process as soon as it has taken more than `limit`: nobody else's memory is to be pushed out."""
    if device.type != "cpu":
        yield
        return
    most, done = limit + _LOADING + anonymous_bytes() - state_bytes(model), threading.Event()

    def watch() -> None:
        while not done.wait(_WATCH_SECONDS):
            if anonymous_bytes() > most:
                print(_PASSED, flush=True)
                os._exit(0)

    watcher = threading.Thread(target=watch, name="memory-limit", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


class _InMemory(LazyArray):
    def __init__(self, values: np.ndarray):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        return self.values[box].copy()


def noise(depth: int, tile: int, tiles: int, seed: int, *, classes: int = 1, tasks: int | None = None) -> TileDataset:
    """Tiles of random intensities and random ink, all of them papyrus, from a fragment that lies on no disk; in turn
    of each of `tasks`."""
    rng = np.random.default_rng(seed)
    side = 2 * tile
    fragment = Fragment(
        name="noise",
        path=Path("noise"),
        format="noise in memory",
        volume=_InMemory(rng.integers(0, 256, (depth, side, side), np.uint8)),
        papyrus=FullPlane((side, side)),
        label=_InMemory(rng.integers(0, max(2, classes), (side, side), np.uint8)),
        supervised=FullPlane((side, side)),
        validation=None,
        voxel_um=None,
        direction="forward",
        center_layer=depth // 2,
    )
    y, x = rng.integers(0, tile + 1, (2, tiles))
    names = tuple(f"noise{task}" for task in range(tasks or 1))
    rows = SampleTable.of("noise", y, x, np.full(tiles, 0.5), -1, "random")
    table = replace(rows, fragments=names, fragment=(np.arange(tiles) % len(names)).astype(np.int32))
    contract = InputContract(stored_dtype="uint8", depth=depth, tile=tile, mean=0.5, std=0.29)
    numbers = {name: task for task, name in enumerate(names)} if tasks else None
    return TileDataset(dict.fromkeys(names, fragment), table, contract, numbers)


if __name__ == "__main__":
    found = run(Probe.model_validate_json(sys.stdin.read()), Path(sys.argv[1]))
    print(_PASSED if found is None else found, flush=True)

"""Which tiles a step sees: a pure function of (seed, step), so that a run can be repeated and picked up anywhere."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from threading import Event
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from data_recipes.tiles import TileDataset

_MOST_WORKERS = 6  # more than this wait for the disk, and each holds its batches in memory


_STREAMS = ("model", "augment")
Stream = Literal["model", "augment"]
T = TypeVar("T")


def step_seed(seed: int, step: int, stream: Stream, rank: int = 0) -> int:
    """A seed unlike that of any other step, run, stream or process: what a model draws tells nothing of how its tiles
    turned."""
    entropy = [seed, step, _STREAMS.index(stream), *([rank] if rank else [])]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Batches(Sampler[list[int]]):
    """Endless batches of row numbers: one permutation of all rows after another, cut into batches that may span two.

    Position p of the stream is row p mod `rows` of permutation p div `rows`; batch k starts at position k · batch_size.
    Of `processes`, each takes every so-many-th row of a batch, from its `rank` on: together they take each row once.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, first: int = 0, rank: int = 0, processes: int = 1):
        self.rows, self.batch_size, self.seed, self.first = rows, batch_size, seed, first
        self.rank, self.processes = rank, processes

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, np.empty(0, np.int64)
        position = self.first * self.batch_size
        while True:
            batch = []
            while len(batch) < self.batch_size:
                if position // self.rows != epoch:
                    epoch = position // self.rows
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
                batch.append(int(order[position % self.rows]))
                position += 1
            yield batch[self.rank :: self.processes]


def make_loader(
    dataset: TileDataset,
    batch_size: int,
    seed: int,
    device: torch.device,
    workers: int | None = None,
    *,
    first: int = 0,
    rank: int = 0,
    processes: int = 1,
) -> DataLoader[dict[str, Any]]:
    """The endless loader of a process's share, from batch `first` on.

    Workers open the fragments themselves; there are none on one or two cores.
    """
    order = Batches(len(dataset), batch_size, seed, first, rank, processes)
    return fixed_loader(dataset, order, device, workers, seed)


def fixed_loader(
    dataset: TileDataset, batches: Iterable[list[int]], device: torch.device, workers: int | None = None, seed: int = 0
) -> DataLoader[dict[str, Any]]:
    """A loader of given batches of rows."""
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        workers = 0 if cores <= 2 else min(_MOST_WORKERS, max(1, (cores - 1) // here))
    return DataLoader(
        dataset,  # pyright: ignore[reportArgumentType] - map-style by its methods, without torch's base class
        batch_sampler=batches,  # pyright: ignore[reportArgumentType]
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
        prefetch_factor=2 if workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=_leave_interrupts_to_the_main_process,
        generator=torch.Generator().manual_seed(seed),  # or it would draw from the global one
    )


def read_on(load: Callable[[int, int | None], Iterable[T]], workers: int | None, stopped: Event) -> Iterator[T]:
    """What `load(first, workers)` yields. A SIGTERM to all processes of a run ends those that read too: what is left of
    a step or of a validation is then read by this one, so that it can be finished and saved."""
    done = 0
    try:
        for batch in load(0, workers):
            yield batch
            done += 1
    except RuntimeError:
        if not stopped.is_set():
            raise
        yield from load(done, 0)


def _leave_interrupts_to_the_main_process(_: int) -> None:
    """A terminal's Ctrl-C reaches every process; a worker that died of it would take the run down before it saves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        key: value.to(device, non_blocking=True) if key != "index" and isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }

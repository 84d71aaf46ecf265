"""A map made by a Ray cluster: runs of neighbouring shards go to its workers, each of which does what one process does.

The store has to lie in a folder that all nodes see under one path, and so have the segment and the checkpoints. A shard
is noted there when it is done, so a piece that is sent again, after its node has died, goes on where it was.
"""

from __future__ import annotations

import functools
import itertools
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.markup import escape

from data_recipes.cli import duration, stop_signals
from data_recipes.stamp import data_stamp
from zoo.cluster import Workers, connected, find_workers, send
from zoo.device import Chosen
from zoo.predict.job import Job, open_segment, reopen
from zoo.predict.plan import Plan
from zoo.predict.progress import show_progress
from zoo.predict.store import MapStore
from zoo.predict.work import schedule

if TYPE_CHECKING:
    from zoo.predict.__main__ import PredictOptions

PIECES = 4  # a worker: few enough that neighbouring shards share tiles, enough that no worker is long without work
_SEEN_SECONDS = 60.0  # until what another node wrote must have shown up here
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Piece:
    """Shards of the map in the store at `path`, to be made by one worker; `plan` as JSON, with absolute paths."""

    path: str
    plan: str
    shards: tuple[int, ...]
    workers: Workers


@dataclass(frozen=True)
class Probe:
    """A plan (as JSON, with absolute paths) whose precision one worker is to choose."""

    plan: str
    workers: Workers


def choose_on_cluster(plan: Plan, options: PredictOptions, console: Console) -> tuple[Plan, float]:
    """As `Job.choose_precision`, by a worker of the cluster: for workers on another device than this machine has.

    Raises:
        ValueError, OSError, MemoryError: as `predict_on_cluster`.
    """
    chosen: list[tuple[Chosen, float]] = []

    def on_error(number: int, error: Exception) -> None:
        raise error

    with connected(), stop_signals() as stopped:
        workers = find_workers(options.device, options.num_cpus or 1)

        def on_poll() -> None:
            if stopped.is_set():
                raise KeyboardInterrupt

        send(
            choose_precision,
            [Probe(_anywhere(plan).model_dump_json(), workers)],
            workers,
            name=lambda number: "the choice of a precision",
            on_answer=lambda number, answer: chosen.append(answer),
            on_error=on_error,
            on_poll=on_poll,
            say=lambda text: console.print(escape(text)),
        )
    precision, moved = chosen[0]
    return plan.model_copy(update={"precision": precision}), moved


def choose_precision(probe: Probe) -> tuple[Chosen, float]:
    """What a worker runs for `choose_on_cluster`."""
    plan, moved = _opened(probe.plan, probe.workers).choose_precision()
    return plan.precision, moved


def predict_on_cluster(store: MapStore, options: PredictOptions, console: Console) -> None:
    """Make all missing shards of a map on the cluster at RAY_ADDRESS, or on one that is started here.

    Raises:
        ValueError, OSError, MemoryError: as `connected` and `find_workers`; what a worker could not open, read, write
            or compute; what is done is kept.
        KeyboardInterrupt: it was asked to stop; what is done is kept.
    """
    grid, area = store.grid, {shard: store.grid.rect(shard).area for shard in store.plan.part(0, 1)}
    total, began, tiles = sum(area.values()), time.monotonic(), 0

    def say(text: str) -> None:
        console.print(escape(text))

    if not (todo := store.missing()):
        say("nothing was left to compute")
        return
    with store.claim(0, 1), connected():
        workers = find_workers(options.device, options.num_cpus or 1)
        order = [step.shard for step in schedule(grid, todo)]
        pieces = [_piece(store, shards, workers) for shards in cut(order, workers.count)]
        say(f"ray: {len(order)} shards in {len(pieces)} pieces to {workers}")

        def on_answer(number: int, computed: int) -> None:
            nonlocal tiles
            tiles += computed

        def on_error(number: int, error: Exception) -> None:
            raise error

        with stop_signals() as stopped, show_progress(store.plan.fragment, total, console) as on_progress:

            def show() -> None:
                on_progress(total - sum(area[shard] for shard in store.missing()))

            def on_poll() -> None:
                if stopped.is_set():
                    raise KeyboardInterrupt
                show()

            show()
            try:
                send(
                    predict_piece,
                    pieces,
                    workers,
                    name=lambda number: f"{len(pieces[number].shards)} shards from shard {pieces[number].shards[0]} on",
                    on_answer=on_answer,
                    on_error=on_error,
                    on_poll=on_poll,
                    say=say,
                )
            except KeyboardInterrupt:
                console.print("what is done is kept; the same command goes on")
                raise
            _wait_for_all(store)
            show()
    say(f"{tiles} tiles in {duration(time.monotonic() - began)}")


def cut(order: Sequence[int], workers: int) -> list[tuple[int, ...]]:
    """Runs of shards in the order in which they are made, of equal length up to one: PIECES for each worker."""
    count = min(len(order), PIECES * workers)
    bounds = [len(order) * number // count for number in range(count + 1)]
    return [tuple(order[first:last]) for first, last in itertools.pairwise(bounds)]


def predict_piece(piece: Piece) -> int:
    """Make a piece's shards that are not done yet: what a worker runs. The tiles that it computed.

    Raises:
        ValueError: what is read or written is not there, or not the same, on this node.
        others: as `Job.run`.
    """
    if not piece.workers.gpu:
        torch.set_num_threads(piece.workers.cpus)
    node, plan = socket.gethostname(), Plan.model_validate_json(piece.plan)
    try:
        found = MapStore.resume(Path(piece.path)).plan
    except FileNotFoundError:
        raise ValueError(
            f"node {node} does not see {piece.path}: OUT, the segment and the checkpoints have to lie in folders that "
            "all nodes of the cluster see under the same path"
        ) from None
    if differ := found.differences(plan):
        raise ValueError(f"node {node} sees another map in {piece.path}, begun with another {', '.join(differ)}")
    job = _opened(piece.plan, piece.workers)
    return job.run(MapStore(Path(piece.path), plan), piece.shards).tiles


def _opened(plan: str, workers: Workers) -> Job:
    try:
        return _job(plan, "cuda" if workers.gpu else "cpu")
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"node {socket.gethostname()}: {error}") from None


@functools.lru_cache(1)  # Ray runs the next piece in the same process, as long as that has no GPU
def _job(plan: str, device: str) -> Job:
    job = reopen(Plan.model_validate_json(plan), torch.device(device))
    if data_stamp(open_segment(job.plan.path, job.plan.mask)) != job.plan.stamp:  # as stored, not as resampled
        raise ValueError(f"{job.plan.path}: not the data that lies there where the command was given")
    return job


def _piece(store: MapStore, shards: tuple[int, ...], workers: Workers) -> Piece:
    return Piece(str(store.path.absolute()), _anywhere(store.plan).model_dump_json(), shards, workers)


def _anywhere(plan: Plan) -> Plan:
    """The plan with paths that mean the same in any folder."""
    refs = [ref.model_copy(update={"path": str(Path(ref.path).absolute())}) for ref in plan.checkpoints]
    return plan.model_copy(update={"checkpoints": tuple(refs)})


def _wait_for_all(store: MapStore) -> None:
    """Until every shard is noted here, too: a file system of a network may show it later than where it was written."""
    until = time.monotonic() + _SEEN_SECONDS
    while missing := store.missing():
        if time.monotonic() > until:
            raise ValueError(
                f"{store.path}: the workers are done, and {len(missing)} of their shards are not here; OUT has to lie "
                "in a folder that all nodes of the cluster see under the same path"
            )
        time.sleep(_POLL_SECONDS)

"""A bench's runs made by a Ray cluster: each worker makes whole runs, in processes of their own, as one machine does.

The folder of results and the data have to lie where all nodes see them under one path.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout
from rich.console import Console
from rich.markup import escape

from zoo.bench.plan import RunSpec
from zoo.bench.result import Result
from zoo.bench.runner import count_run, head, make_run, outcome
from zoo.cluster import LostError, Workers, connected, find_workers, send, worker_device
from zoo.device import resolve_device


@dataclass(frozen=True)
class RunPiece:
    """One run for a worker. `wait`: until another bench, which is at it, has ended."""

    spec: RunSpec
    out: str
    workers: Workers
    wait: bool


def cluster_device(name: str, cpus: int) -> str:
    """`--device` as the cluster has it, whose machines need not be like this one.

    Raises:
        ValueError: as `worker_device` and `resolve_device`.
    """
    return worker_device(name, cpus) or str(resolve_device(name))


def run_all_on_cluster(specs: list[RunSpec], out: Path, console: Console, *, cpus: int) -> list[Result]:
    """As `run_all`, with a GPU for each run where its device is one, else `cpus` CPUs.

    Raises:
        ValueError: as `connected` and `find_workers`; a node that does not see `out`; a result file that is damaged.
        KeyboardInterrupt: runs are asked to stop and keep their checkpoints.
    """
    results: dict[int, Result] = {}
    for spec in specs:
        (out / "runs" / spec.run_id).mkdir(parents=True, exist_ok=True)  # workers look for it
    with connected():
        workers = find_workers(specs[0].device.removesuffix(":0"), cpus)
        console.print(f"ray: {len(specs)} runs to {workers}")
        others = _send(specs, list(range(len(specs))), results, out, console, workers, wait=False)
        _send(specs, others, results, out, console, workers, wait=True)
    return [results[number] for number in range(len(specs))]


def run_piece(piece: RunPiece) -> tuple[Result, bool] | None:
    """What a worker runs: as `make_run`; None where another bench is at the run and `wait` is off."""
    out = Path(piece.out)
    if not (out / "runs" / piece.spec.run_id).is_dir():
        raise ValueError(
            f"node {socket.gethostname()} does not see {out}: --out and the data have to lie in folders that all nodes "
            "of the cluster see under the same path"
        )
    if not piece.workers.gpu:
        os.environ["OMP_NUM_THREADS"] = str(piece.workers.cpus)  # for the run's own processes
    try:
        return make_run(piece.spec, out, wait=piece.wait)
    except Timeout:
        return None


def _send(
    specs: list[RunSpec],
    numbers: list[int],
    results: dict[int, Result],
    out: Path,
    console: Console,
    workers: Workers,
    *,
    wait: bool,
) -> list[int]:
    """Put the results of these runs into `results`; the numbers of those that another bench is at."""
    others: list[int] = []

    def on_answer(index: int, answer: tuple[Result, bool] | None) -> None:
        number = numbers[index]
        if answer is None:
            console.print(f"{head(specs, number)}  [dim]another bench is at it[/]")
            others.append(number)
            return
        done, made = answer
        results[number] = count_run(done, out)
        console.print(head(specs, number) + ("" if made else "  [dim]finished before, kept[/]"))
        if made:
            console.print(outcome(results[number]))

    def on_error(index: int, error: Exception) -> None:
        if not isinstance(error, (LostError, MemoryError)):
            raise error
        spec = specs[numbers[index]]
        status = "out_of_memory" if isinstance(error, MemoryError) else "failed"
        failed = Result(run_id=spec.run_id, status=status, reason=str(error), spec=spec)
        failed.save(out / "runs" / spec.run_id)
        on_answer(index, (failed, True))

    send(
        run_piece,
        [RunPiece(specs[number], str(out.absolute()), workers, wait) for number in numbers],
        workers,
        name=lambda index: f"{specs[numbers[index]].label}, fold {specs[numbers[index]].fold}",
        on_answer=on_answer,
        on_error=on_error,
        on_poll=lambda: None,
        say=lambda text: console.print(escape(text)),
    )
    return others

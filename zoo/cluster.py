"""Work sent to a Ray cluster in pieces: connecting, what a worker gets, and sending again what a dead node lost.

Needs the extra `cluster`. Every node has the same inkzoo installed and sees the same folders under the same paths: what
is read and written goes through these, and only names of it through Ray.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from data_recipes.cli import USER_ERRORS

LOSSES = 3  # of one piece, before it counts as what kills its workers
_POLL_SECONDS = 0.5
_STOP_SECONDS = 60.0  # for workers that are asked to stop at the next good moment
_CONNECT_SECONDS = 10.0
_STARTS = 3  # on a loaded machine a new node may be too late for its own time limits
_NODE_SECONDS = 10.0  # between two looks at which nodes are left
_OBJECT_STORE = 100 * 2**20  # bytes: nothing large goes through it, and by itself Ray takes 30 % of the memory
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # the only way to silence what Ray prints on standard output when a worker dies
    "RAY_worker_niceness": "0",  # of a cluster started here, whose work is not less urgent for being Ray's
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or a FutureWarning in each worker without a GPU
}

Piece = TypeVar("Piece")
Answer = TypeVar("Answer")
Say = Callable[[str], None]


class LostError(ValueError):
    """A piece of work was lost with its worker more often than a dead node explains."""


@dataclass(frozen=True)
class Workers:
    """How many pieces are worked on at once, each with a GPU, or with `cpus` CPUs."""

    count: int
    cpus: int
    gpu: bool

    def __str__(self) -> str:
        share = "a GPU" if self.gpu else "1 CPU" if self.cpus == 1 else f"{self.cpus} CPUs"
        return f"1 worker with {share}" if self.count == 1 else f"{self.count} workers with {share} each"


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Inside the block work can be sent to the cluster at RAY_ADDRESS, or to one that is started here for the block.

    Raises:
        ValueError: ray is not installed; no cluster answers at RAY_ADDRESS.
    """
    ray = _ray()
    address = os.environ.get("RAY_ADDRESS") or "local"
    settings: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    if address != "local":
        settings = {}
        _refuse_silent(address)
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        for left in reversed(range(_STARTS if address == "local" else 1)):
            with contextlib.suppress(Exception) if left else contextlib.nullcontext():
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **settings)
                break
    except Exception as error:  # Ray's own are of every kind, bare Exception among them
        where = "no Ray cluster could be started here" if address == "local" else f"RAY_ADDRESS {address}"
        raise ValueError(f"{where}: {error}") from None
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminate)  # Ray takes it over
        yield
    finally:
        ray.shutdown()


def find_workers(device: str, cpus: int) -> Workers:
    """The workers of the connected cluster: one for each GPU where it has any, unless `device` is cpu.

    Raises:
        ValueError: no node has what one worker needs.
    """
    if cpus < 1:
        raise ValueError(f"--num-cpus {cpus} is not possible; 1 or more")
    if device.startswith("cuda:"):
        raise ValueError(f"--device {device}: ray gives each worker a GPU of its own; give --device cuda")
    workers, most = _count(device, cpus)
    if workers.count:
        return workers
    if device == "cuda":
        raise ValueError("--device cuda: no node of the cluster has a GPU; use --device cpu or auto")
    raise ValueError(f"--num-cpus {cpus}: no node of the cluster has that many; the largest has {most}")


def worker_device(name: str, cpus: int) -> str | None:
    """`--device` as the workers of the cluster at RAY_ADDRESS have it, cuda:0 or cpu; None where that is this machine's
    own to say: no cluster runs yet, or the CPU was asked for.

    Raises:
        ValueError: as `connected` and `find_workers`.
    """
    if name == "cpu" or name.startswith("cuda:") or not os.environ.get("RAY_ADDRESS"):
        return None
    with connected():
        return "cuda:0" if find_workers(name, cpus).gpu else "cpu"


def send(
    work: Callable[[Piece], Answer],
    pieces: Sequence[Piece],
    workers: Workers,
    *,
    name: Callable[[int], str],
    on_answer: Callable[[int, Answer], None],
    on_error: Callable[[int, Exception], None],
    on_poll: Callable[[], None],
    say: Say,
) -> None:
    """Have the workers do all pieces, in any order; one that is lost with its worker is sent again, and that is said.

    Args:
        work: a function of a module that every node has. What it did before its worker died must not harm the next try.
        name: what a piece is called in messages, by its number.
        on_answer: called with a piece's number and what `work` returned.
        on_error: called with a piece's number and what `work` raised, MemoryError where its node ran out of memory, or
            LostError. Where it returns, the others go on.
        on_poll: called about twice a second.

    Raises:
        whatever one of the calls raises, KeyboardInterrupt too; the workers have then been asked to stop.
    """
    ray = _ray()
    share: dict[str, Any] = {"num_cpus": 0, "num_gpus": 1} if workers.gpu else {"num_cpus": workers.cpus}
    task = ray.remote(max_retries=0, **share)(
        _interruptible(work)
    )  # Ray's own tries are endless where memory is short, and silent
    losses = [0] * len(pieces)
    waiting = {task.remote(piece): number for number, piece in enumerate(pieces)}
    look = _Nodes(workers, say)
    try:
        while waiting:
            ready, _ = ray.wait(list(waiting), timeout=_POLL_SECONDS)
            for ref in ready:
                number = waiting.pop(ref)
                try:
                    answer = ray.get(ref)
                except _lost(ray) as error:
                    losses[number] += 1
                    if losses[number] > LOSSES:
                        on_error(number, _lost_too_often(name(number), losses[number], error))
                        continue
                    say(
                        f"{name(number)}: lost with a worker whose node died or that was killed; sent again "
                        f"({losses[number]} of at most {LOSSES} times)"
                    )
                    waiting[task.remote(pieces[number])] = number
                except ray.exceptions.OutOfMemoryError:
                    on_error(number, MemoryError(f"{name(number)}: its node has no memory left; use larger --num-cpus"))
                except ray.exceptions.RayTaskError as error:
                    on_error(number, _own(error))
                else:
                    on_answer(number, answer)
            on_poll()
            look()
    finally:
        _stop(list(waiting))


def _ray() -> Any:
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)  # read when ray is imported
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise ValueError("--engine ray needs the extra \"cluster\": pip install 'inkzoo[cluster]'") from None
    return ray


def _interruptible(work: Callable[[Piece], Answer]) -> Callable[[Piece], Answer]:
    """The work, heeding Ray's interruption also where the cluster was started in the background, deaf to Ctrl-C."""

    @functools.wraps(work)
    def listening(piece: Piece) -> Answer:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return work(piece)

    return listening


def _refuse_silent(address: str) -> None:
    """Raise ValueError where nobody listens at HOST:PORT: Ray itself would try for minutes."""
    host, found, port = address.rpartition("://")[2].rpartition(":")
    if not found or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise ValueError(
            f"RAY_ADDRESS {address}: no cluster answers there ({error}); start one with `ray start --head`, or unset "
            "it to have one started here"
        ) from None


def _count(device: str, cpus: int) -> tuple[Workers, int]:
    """The workers that the nodes now alive make, and the CPUs of the largest node."""
    nodes = [node["Resources"] for node in _ray().nodes() if node["Alive"]]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if device != "cpu" and (gpus or device == "cuda"):
        return Workers(gpus, cpus, gpu=True), 0
    each = [int(node.get("CPU", 0)) for node in nodes]
    return Workers(sum(found // cpus for found in each), cpus, gpu=False), max(each, default=0)


class _Nodes:
    """Says, once each time, that no node is left which could take the work: Ray waits for one without a word."""

    def __init__(self, workers: Workers, say: Say):
        self._workers, self._say = workers, say
        self._looked, self._bare = time.monotonic(), False

    def __call__(self) -> None:
        if time.monotonic() - self._looked < _NODE_SECONDS:
            return
        self._looked = time.monotonic()
        left, _ = _count("cuda" if self._workers.gpu else "cpu", self._workers.cpus)
        if not left.count and not self._bare:
            self._say("no node is left that could take the work: waiting for one; Ctrl-C keeps what is done")
        self._bare = not left.count


def _lost(ray: Any) -> tuple[type[Exception], ...]:
    """What says that a worker is gone, and nothing of its work; cancelled, too, for we ask no more once we cancel."""
    found = ray.exceptions
    return found.WorkerCrashedError, found.NodeDiedError, found.ObjectLostError, found.TaskCancelledError


def _lost_too_often(name: str, times: int, error: Exception) -> LostError:
    why = (str(error).splitlines() or [type(error).__name__])[0]
    return LostError(f"{name}: its worker died {times} times, so it may itself be the cause; the last time: {why}")


def _own(error: Any) -> Exception:
    """The worker's own error where its message is made for people; otherwise Ray's, with the worker's traceback."""
    cause = error.cause
    return cause if isinstance(cause, (*USER_ERRORS, MemoryError, OSError)) else error


def _stop(refs: list[Any]) -> None:
    """Interrupt tasks as Ctrl-C would, and wait for them to end what must not stay half done."""
    if not refs:
        return
    ray = _ray()
    with contextlib.suppress(ray.exceptions.RayError):
        for ref in refs:
            ray.cancel(ref)
        ray.wait(refs, num_returns=len(refs), timeout=_STOP_SECONDS)

"""Ctrl-C and SIGTERM as a request that the loop answers at the end of a step."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from lightning_fabric import Fabric

ECHO_SECONDS = 1.0
"""torchrun passes on to its processes a Ctrl-C that the terminal has sent to all of them already."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; what was trained so far lies in `checkpoint`, and can be gone on from."""

    def __init__(self, step: int, checkpoint: Path):
        super().__init__(
            f"interrupted after step {step}: the model as it was then is in {checkpoint}; "
            "the same command with --resume goes on"
        )
        self.step = step
        self.checkpoint = checkpoint


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; a Ctrl-C after that interrupts at once. Main thread only."""
    event = threading.Event()
    asked = 0.0
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def on_signal(number: int, _frame: object) -> None:
        nonlocal asked
        if not event.is_set():
            asked = time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - asked > ECHO_SECONDS:
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def any_process(fabric: Fabric, *flags: bool) -> tuple[bool, ...]:
    """Each flag, set where any process of the run has set it; so all of them do the same."""
    if fabric.world_size == 1:
        return flags
    counted = fabric.all_reduce(torch.tensor(flags, dtype=torch.int64, device=fabric.device), reduce_op="sum")
    return tuple(bool(count) for count in counted)  # pyright: ignore[reportGeneralTypeIssues]

"""Showing how a run gets on: a bar on a terminal, a plain line every few seconds anywhere else."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich import progress as bar
from rich.console import Console

from data_recipes.cli import duration

_SECONDS_BETWEEN_LINES = 5.0


@dataclass(frozen=True)
class Progress:
    """Where a run stands. `share` is of the budget, 0 to 1; `rate` in steps a second."""

    step: int
    share: float
    loss: float
    rate: float
    seconds: float
    seconds_left: float


@contextlib.contextmanager
def show_progress(label: str, console: Console | None = None) -> Iterator[Callable[[Progress], None]]:
    """A function for `train(on_progress=…)` that shows loss, rate and time left on stderr."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _lines(label)
        return
    columns = (
        bar.TextColumn("{task.description}"),
        bar.BarColumn(),
        bar.TaskProgressColumn(),
        bar.TextColumn("step {task.fields[step]}  loss {task.fields[loss]:.4f}  {task.fields[rate]:.2f} steps/s"),
        bar.TextColumn("{task.fields[left]} left"),
    )
    with bar.Progress(*columns, console=console) as shown:
        task = shown.add_task(label, total=1.0, step=0, loss=float("nan"), rate=0.0, left="?")

        def update(now: Progress) -> None:
            left = duration(now.seconds_left)
            shown.update(task, completed=now.share, step=now.step, loss=now.loss, rate=now.rate, left=left)

        yield update


def _lines(label: str) -> Callable[[Progress], None]:
    last = -_SECONDS_BETWEEN_LINES

    def write(now: Progress) -> None:
        nonlocal last
        if time.monotonic() - last < _SECONDS_BETWEEN_LINES and now.share < 1:
            return
        last = time.monotonic()
        print(
            f"{label}: step {now.step} ({now.share:.0%})  loss {now.loss:.4f}  {now.rate:.2f} steps/s  "
            f"{duration(now.seconds_left)} left",
            file=sys.stderr,
            flush=True,
        )

    return write

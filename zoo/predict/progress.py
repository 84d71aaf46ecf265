"""Showing how a map gets on: a bar on a terminal, a plain line every few seconds anywhere else."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich import progress as bar
from rich.console import Console
from rich.markup import escape

from data_recipes.cli import duration

_SECONDS_BETWEEN_LINES = 5.0


@contextlib.contextmanager
def show_progress(label: str, pixels: float, console: Console) -> Iterator[Callable[[float], None]]:
    """A function that is told how many of `pixels` are done; the first call says what was done before."""
    speed = _Speed(pixels)
    if not console.is_terminal:
        yield _lines(label, speed, console)
        return
    columns = (
        bar.TextColumn("{task.description}"),
        bar.BarColumn(),
        bar.TaskProgressColumn(),
        bar.TextColumn("{task.fields[told]}"),
    )
    with bar.Progress(*columns, console=console) as shown:
        task = shown.add_task(escape(label), total=pixels, told="")
        yield lambda done: shown.update(task, completed=done, told=speed.told(done))


class _Speed:
    def __init__(self, pixels: float):
        self.pixels = pixels
        self._before: float | None = None
        self._began = 0.0

    def told(self, done: float) -> str:
        if self._before is None:
            self._before, self._began = done, time.monotonic()
        rate = (done - self._before) / max(time.monotonic() - self._began, 1e-9)
        digits = 1 if self.pixels >= 1e7 else 2
        so_far = f"{done / 1e6:.{digits}f} of {self.pixels / 1e6:.{digits}f} Mpx"
        if not rate:  # nothing to tell a speed from
            return so_far
        return f"{so_far}  {rate / 1e6:.3f} Mpx/s  {duration((self.pixels - done) / rate)} left"


def _lines(label: str, speed: _Speed, console: Console) -> Callable[[float], None]:
    last, complete = -_SECONDS_BETWEEN_LINES, False

    def write(done: float) -> None:
        nonlocal last, complete
        told = speed.told(done)
        if complete or (time.monotonic() - last < _SECONDS_BETWEEN_LINES and done < speed.pixels):
            return
        last, complete = time.monotonic(), done >= speed.pixels
        console.print(f"{escape(label)}: {told}", highlight=False)

    return write

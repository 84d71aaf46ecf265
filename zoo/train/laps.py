"""Where a step's time goes, and what to change about it."""

from __future__ import annotations

import time

import torch
from rich import box
from rich.table import Table

_WARM_UP = 3  # first steps that allocate, compile and start workers; they are not counted

WAITING, COPYING, AUGMENTATION, FORWARD, BACKWARD, OPTIMIZER, REST = (
    "waiting for data",
    "copying",
    "augmentation",
    "forward",
    "loss and backward",
    "optimizer",
    "the rest",
)
_ADVICE = {
    WAITING: (0.03, "more --workers, uncompressed or sharded data (`data_recipes convert`), or --cache-tiles"),
    COPYING: (0.05, "larger batches; the copy overlaps with computing only where memory is pinned"),
    AUGMENTATION: (0.15, "a lighter set of augmentations, such as light"),
    OPTIMIZER: (0.15, "a larger batch: the optimizer costs the same for each"),
    REST: (0.05, "validate, log and save less often"),
}


class Laps:
    """A stopwatch: `begin()` each step, `lap(name)` after each part. Costs nothing unless `enabled`."""

    def __init__(self, device: torch.device, *, enabled: bool):
        self.device, self.enabled = device, enabled
        self.seconds: dict[str, float] = {}
        self.steps = -_WARM_UP
        self._last = 0.0

    def begin(self) -> None:
        if self.enabled:
            self.steps += 1
            self._last = self._now()

    def lap(self, name: str) -> None:
        """Add the time since the last lap to `name`."""
        if not self.enabled:
            return
        now = self._now()
        if self.steps > 0:
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now

    def per_step(self) -> dict[str, float]:
        """Mean seconds a step of each part; empty unless enabled and past the first few steps."""
        return {name: seconds / self.steps for name, seconds in self.seconds.items()} if self.steps > 0 else {}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def laps_table(per_step: dict[str, float]) -> Table:
    """A row a part: milliseconds, share of the step, and what to change where it is more than it should be."""
    total = sum(per_step.values()) or 1.0
    table = Table("part", title="where a step's time goes", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    table.add_column("what to change")
    for name, seconds in per_step.items():
        most, advice = _ADVICE.get(name, (1.0, ""))
        table.add_row(name, f"{1000 * seconds:.1f}", f"{seconds / total:.1%}", advice if seconds / total > most else "")
    table.add_row("a step", f"{1000 * total:.1f}", "", "")
    return table

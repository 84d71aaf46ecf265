"""The common scale on which the table draws every Dice with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from zoo.bench.leaderboard import Row

_STEPS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5)


@dataclass(frozen=True)
class Scale:
    """From `low` to `high` with a tick each `step`; `floor` is the best floor's Dice, or None."""

    low: float
    high: float
    step: float
    floor: float | None

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Scale:
        """The narrowest scale of round ends, within 0 and 1, that holds every interval with at most five steps."""
        ends = [
            end
            for row in rows
            for end in (row.dice, row.dice_low, row.dice_high)
            if end is not None and math.isfinite(end)
        ]
        floors = [row.dice for row in rows if row.floor and row.dice is not None]
        least, most = (max(min(ends), 0.0), min(max(ends), 1.0)) if ends else (0.0, 1.0)
        for step in _STEPS:
            low, high = math.floor(least / step + 1e-9), math.ceil(most / step - 1e-9)
            if 0 < high - low <= 5:
                break
        else:
            low, high, step = 0, 2, 0.5
        return cls(low * step, high * step, step, max(floors, default=None))

    @property
    def ticks(self) -> list[float]:
        count = round((self.high - self.low) / self.step)
        return [self.low + index * self.step for index in range(count + 1)]

    def percent(self, value: float) -> str:
        """Where a value lies between the ends, for an SVG attribute."""
        share = (value - self.low) / (self.high - self.low)
        return f"{100 * min(max(share, 0.0), 1.0):.2f}%"

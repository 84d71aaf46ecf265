"""What table, page and pictures show of a row alike: remarks, mark, distance to the floors, and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from zoo.bench.compare import MIN_BLOCKS
from zoo.bench.leaderboard import Row

MARKS = {"failed": "✗", "not checked": "?"}
"""What stands beside a row that fails a control, and beside one whose controls could not all be looked at."""


def place(row: Row) -> str:
    """A row's rank, or what stands in its place."""
    if row.rank is not None:
        return str(row.rank)
    return "floor" if row.floor else "control" if row.control else "–"


def marked(row: Row, text: str) -> str:
    """A text of a row with the row's mark behind it."""
    return f"{text} {mark}" if (mark := MARKS.get(row.verdict)) else text


def remarks(row: Row) -> list[str]:
    """What must be known of a row before it is believed; which controls it fails comes first."""
    return [
        *([f"failed: {'; '.join(row.failures)}"] if row.failures else []),
        *([f"not checked: {'; '.join(row.unchecked)}"] if row.unchecked else []),
        *row.warnings,
        *([": ".join(filter(None, (row.status.replace("_", " "), row.reason)))] if row.status != "ok" else []),
    ]


def not_run(rows: Sequence[Row]) -> list[str]:
    """The controls that a bench lacks: they concern all rows alike, and so are said once and mark none."""
    return list(dict.fromkeys(control for row in rows for control in row.not_run))


def too_few_blocks(rows: Sequence[Row]) -> str:
    """Why no rank is given where there are too few blocks for one; empty otherwise."""
    blocks = max((row.blocks for row in rows if row.blocks is not None), default=MIN_BLOCKS)
    return f"{blocks} of the {MIN_BLOCKS} whole letter blocks with ink that a rank needs" if blocks < MIN_BLOCKS else ""


def over_floors(row: Row) -> float | None:
    """The lower end of the 95 % interval of the difference of Dice to the floor that comes closest."""
    lows = [difference["lo"] for difference in row.above_floors.values() if difference["lo"] is not None]
    return min(lows) if lows and not (row.floor or row.control) else None


def pareto(rows: Sequence[Row], cost: Callable[[Row], float | None]) -> list[Row]:
    """The models that nothing of less cost equals in Dice, least first.

    A floor can push a model off the front and is not on it. Controls and rows that fail a control do neither: what
    they score is no claim.
    """
    scored = [
        (spent, -row.dice, row)
        for row in rows
        if row.dice is not None and not (row.control or row.failures) and (spent := cost(row))
    ]
    front, best = [], -math.inf
    for _, dice, row in sorted(scored, key=lambda point: point[:2]):
        if -dice > best:
            best = -dice
            if not row.floor:
                front.append(row)
    return front

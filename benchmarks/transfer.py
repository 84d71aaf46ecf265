"""Does one bench predict another? How alike two leaderboards order the configurations that both hold.

    python benchmarks/transfer.py benchmarks/results/dipole benchmarks/results/scroll1-rows

Kendall's τ-b of the configurations' scores, once for Dice and once for the AUC of 16-px blocks: ten or a few more
configurations are too few for a correlation of the scores themselves, in which one that fails decides, and an order is
what a bench is asked for. Its interval is the percentile one over resampled configurations. On 1000 simulated benches
of 10, 14 and 20 bivariate normal scores that covered τ = 0, .4, .7 and .85 in .94 to .99, and left out zero in .04 to
.06 of those with none; Fisher's z with Fieller's variance of .437/(n − 4) covered .85 in no more than .81 at ten.
The p beside it is scipy's, exact where no score is tied.

Floors and controls take no part: that models stand above what cannot read is known before, and would pass for
transfer. Variants of one family are not independent: where there are many the interval is too narrow.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau

from data_recipes.cli import run_cli

LEAST_CONFIGURATIONS, LEAST_SEEDS = 10, 3
RESAMPLES = 2000
SCORES = {"dice": "Dice", "auc_blocks": "AUC of 16-px blocks"}


@dataclass(frozen=True)
class Board:
    """A leaderboard's contenders: label -> row, and on how many seeds each was trained (0: the file does not say)."""

    name: str
    rows: dict[str, dict[str, Any]]
    seeds: int

    def score(self, label: str, key: str) -> float | None:
        return self.rows[label]["quality"].get(key)


class Tau(NamedTuple):
    """Kendall's τ-b with its 95 % interval over resampled configurations, and its two-sided p; NaN: no value."""

    tau: float
    lo: float
    hi: float
    p: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("first", type=Path, help="a bench's folder or its leaderboard.json: what shall predict")
    parser.add_argument("second", type=Path, help="what shall be predicted")
    parser.add_argument("--score", choices=[*SCORES, "both"], default="both")
    chosen = parser.parse_args()
    keys = [*SCORES] if chosen.score == "both" else [chosen.score]
    print(report(read_board(chosen.first), read_board(chosen.second), keys))


def read_board(path: Path) -> Board:
    """The leaderboard at a path, or in the folder there.

    Configurations that lack runs which others have are left out.

    Raises:
        FileNotFoundError, ValueError: none is there, or it is not one.
    """
    file = path / "leaderboard.json" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no leaderboard there; give a bench's folder or its leaderboard.json")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        rows = [row for row in content["rows"] if not row["floor"] and not row.get("control") and row["runs"]]
        most = max((row["runs"] for row in rows), default=0)
        kept = {row["label"]: row for row in rows if row["runs"] == most}
        seeds = len(content.get("seeds", []))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: is not a leaderboard.json as zoo.bench writes it ({error!r})") from None
    name = file.parent.name if file.name == "leaderboard.json" else file.stem
    return Board(name, kept, seeds)


def report(first: Board, second: Board, keys: list[str]) -> str:
    """What the two orders have in common, a paragraph a score.

    Raises:
        ValueError: fewer than two configurations in common, or one label for two models.
    """
    labels = [label for label in first.rows if label in second.rows]
    if differ := [label for label in labels if first.rows[label]["model"] != second.rows[label]["model"]]:
        raise ValueError(f"{', '.join(differ)}: another model in {first.name} than in {second.name}, under one label")
    if len(labels) < 2:
        raise ValueError(
            f"{len(labels)} configurations are in both; {first.name} has {'; '.join(first.rows) or 'none'}, "
            f"{second.name} {'; '.join(second.rows) or 'none'}"
        )
    lines = [f"{len(labels)} configurations in {first.name} and in {second.name}: {'; '.join(labels)}"]
    for here, other in ((first, second), (second, first)):
        if alone := [label for label in here.rows if label not in other.rows]:
            lines.append(f"only in {here.name}: {'; '.join(alone)}")
    for key in keys:
        a, b = ({label: board.score(label, key) for label in labels} for board in (first, second))
        known = {label: (x, y) for label in labels if (x := a[label]) is not None and (y := b[label]) is not None}
        lines += ["", *_of_score(SCORES[key], first, second, known)]
    return "\n".join(lines)


def _of_score(what: str, first: Board, second: Board, scores: Mapping[str, tuple[float, float]]) -> list[str]:
    found = tau_interval([x for x, _ in scores.values()], [y for _, y in scores.values()])
    enough = len(scores) >= LEAST_CONFIGURATIONS
    interval = f"95 % [{found.lo:+.2f}, {found.hi:+.2f}], p {found.p:.3f}" if enough else "no interval of so few"
    lines = [f"{what}: Kendall's τ-b {found.tau:+.2f}, {interval}"]
    discordant, tied = [], 0
    for one, other in combinations(sorted(scores, key=lambda label: -scores[label][0]), 2):
        (x, y), (other_x, other_y) = scores[one], scores[other]
        tied += x == other_x or y == other_y
        if (x - other_x) * (y - other_y) < 0:
            sure = "; told apart in both" if all(_told_apart(board, one, other) for board in (first, second)) else ""
            discordant.append(f"  {one} above {other}: {x:.3f} > {other_x:.3f}, but {y:.3f} < {other_y:.3f}{sure}")
    pairs = len(scores) * (len(scores) - 1) // 2
    lines.append(f"{len(discordant)} of {pairs} pairs are discordant; {tied} are tied in one")
    return [*lines, *discordant, verdict(found, first, second, len(scores))]


def _told_apart(board: Board, one: str, other: str) -> bool:
    """Whether two configurations have different ranks by Dice."""
    ranks = {board.rows[label].get("rank") for label in (one, other)}
    return len(ranks - {None}) == 2


def verdict(found: Tau, first: Board, second: Board, configurations: int) -> str:
    """What may be said of it."""
    short = []
    if configurations < LEAST_CONFIGURATIONS:
        short.append(f"configurations: {configurations}, {LEAST_CONFIGURATIONS} are needed")
    for board in (first, second):
        if board.seeds < LEAST_SEEDS:
            short.append(f"seeds in {board.name}: {board.seeds or 'unknown'}, {LEAST_SEEDS} are needed")
    if short:
        return f"No claim of transfer: too little to tell ({'; '.join(short)})."
    if np.isnan(found.lo):
        return "No claim of transfer: τ has no value, for one of the two gives all the same score."
    if found.lo <= 0 <= found.hi:
        return "No claim of transfer: the interval includes zero."
    if found.hi < 0:
        return f"No transfer: the interval is below zero, what leads in {first.name} trails in {second.name}."
    return f"The order in {first.name} says something of the order in {second.name}: the interval excludes zero."


def tau_interval(x: ArrayLike, y: ArrayLike, *, n: int = RESAMPLES, seed: int = 0) -> Tau:
    """τ-b of two scores of the same configurations, (N,) each, N ≥ 2.

    A perfect order stays perfect however it is resampled: its interval has no width.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    found: Any = kendalltau(x, y, variant="b")
    drawn = np.random.default_rng(seed).integers(0, len(x), (n, len(x)))
    resampled = _tau_b(x[drawn], y[drawn])
    if np.isnan(found.statistic) or np.isnan(resampled).all():
        return Tau(float(found.statistic), np.nan, np.nan, float(found.pvalue))
    lo, hi = np.nanquantile(resampled, [0.025, 0.975])
    return Tau(float(found.statistic), float(lo), float(hi), float(found.pvalue))


def _tau_b(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, N) twice -> (n,): scipy's coefficient, for many resamples at once; NaN where all of one are tied."""
    a, b = (np.sign(values[:, :, None] - values[:, None, :]) for values in (x, y))
    whole = np.sqrt((a * a).sum((1, 2)) * (b * b).sum((1, 2)))
    return np.divide((a * b).sum((1, 2)), whole, out=np.full(len(whole), np.nan), where=whole > 0)


if __name__ == "__main__":
    run_cli(main)

"""Does one bench predict another? How alike two leaderboards order the configurations that both hold.

    python benchmarks/transfer.py benchmarks/results/dipole benchmarks/results/scroll1

Kendall's τ-b of the configurations' mean Dice, or of another score: ten or a few more configurations are too few for a
correlation of the scores themselves, in which one that fails decides, and an order is what a bench is asked for.

Its interval is the percentile one over resampled families and, in each board apart, resampled seeds. Variants of one
family are not independent, so a family is drawn with all of its rows. On 500 simulated pairs of boards without any
transfer, of 14 rows in 7 families as on the committed ones, it left out zero in .07 to .09 where seeds add no noise
(variants sharing nothing to .8 of their variance), and in .01 where seeds scatter as much as models differ: there it is
wide, and of a true correlation of .8 it sees .11 to .23.

What τ could be at all is printed beside it: that of two seeds of one board, which have everything in common but the
noise. Floors and controls take no part: that models stand above what cannot read is known before, and would pass for
transfer. Rows that fail a control or whose seeds end too far apart for a rank take part, and are named.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_recipes.cli import run_cli
from zoo.registry import model_card

LEAST_CONFIGURATIONS, LEAST_SEEDS = 10, 3
RESAMPLES = 2000
SCORES = {"dice": "Dice", "auc_blocks": "AUC of 16-px blocks"}


@dataclass(frozen=True)
class Board:
    """A leaderboard's contenders, label -> row, and the suite that was asked for."""

    name: str
    rows: dict[str, dict[str, Any]]
    suite: dict[str, Any]

    @property
    def seeds(self) -> list[int]:
        return sorted({run["seed"] for row in self.rows.values() for run in row["each_run"]})

    def scores(self, labels: Sequence[str], key: str) -> NDArray[np.float64]:
        """(labels, seeds), means over folds."""
        return np.array([[self._score(label, seed, key) for seed in self.seeds] for label in labels])

    def _score(self, label: str, seed: int, key: str) -> float:
        found = [run[key] for run in self.rows[label]["each_run"] if run["seed"] == seed]
        return np.nan if None in found or not found else fmean(found)


class Tau(NamedTuple):
    """Kendall's τ-b with its 95 % interval; NaN: no value."""

    tau: float
    lo: float
    hi: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("first", type=Path, help="a bench's folder or its leaderboard.json: what shall predict")
    parser.add_argument("second", type=Path, help="what shall be predicted")
    parser.add_argument("--score", choices=[*SCORES], default="dice", help="one, chosen before looking (default: dice)")
    chosen = parser.parse_args()
    print(report(read_board(chosen.first), read_board(chosen.second), chosen.score))


def read_board(path: Path) -> Board:
    """The leaderboard at a path, or in the folder there.

    Configurations that lack runs which others have are left out.

    Raises:
        FileNotFoundError, ValueError: none is there, it is not one, or it is of a version that kept no runs.
    """
    file = path / "leaderboard.json" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no leaderboard there; give a bench's folder or its leaderboard.json")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        suite = content["suite"]
        rows = [row for row in content["rows"] if not row["floor"] and not row.get("control") and row["runs"]]
        most = max((row["runs"] for row in rows), default=0)
        kept = {row["label"]: row for row in rows if row["runs"] == most}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: is not a leaderboard.json as zoo.bench writes it ({error!r})") from None
    if not all(row.get("each_run") for row in kept.values()):
        raise ValueError(
            f"{file}: says nothing of single runs, as of an earlier version; python -m zoo.bench report on the "
            "folder of its bench, with its runs, writes it anew"
        )
    return Board(file.parent.name if file.name == "leaderboard.json" else file.stem, kept, suite)


def report(first: Board, second: Board, key: str = "dice") -> str:
    """What the two orders have in common.

    Raises:
        ValueError: fewer than two configurations in common, or one label for two models.
    """
    labels = [label for label in first.rows if label in second.rows]
    if differ := [label for label in labels if first.rows[label]["model"] != second.rows[label]["model"]]:
        raise ValueError(f"{'; '.join(differ)}: another model in {first.name} than in {second.name}, under one label")
    if len(labels) < 2:
        raise ValueError(
            f"{len(labels)} labels are in both; in {first.name}: {'; '.join(first.rows) or 'none'}. "
            f"In {second.name}: {'; '.join(second.rows) or 'none'}"
        )
    if first.suite == second.suite:
        raise ValueError(f"{first.name} and {second.name} are of one suite: how it predicts itself is no transfer")
    family = [_family(first.rows[label]["model"]) for label in labels]
    lines = [f"{len(labels)} configurations of {len(set(family))} families in {first.name} and {second.name}:"]
    lines.append(f"  {'; '.join(labels)}")
    for here, other in ((first, second), (second, first)):
        if alone := [label for label in here.rows if label not in other.rows]:
            lines.append(f"only in {here.name}: {'; '.join(alone)}")
        if failing := [label for label in labels if here.rows[label].get("failures")]:
            lines.append(f"in {here.name} these fail a control: {'; '.join(failing)}")
        ranked = [label for label in labels if here.rows[label].get("rank")]
        if ranked and len(ranked) < len(labels):
            unranked = [label for label in labels if label not in ranked]
            lines.append(f"in {here.name} these have no rank while others have: {'; '.join(unranked)}")
    a, b = first.scores(labels, key), second.scores(labels, key)
    found = tau_interval(a, b, family)
    enough = len(labels) >= LEAST_CONFIGURATIONS
    interval = f"95 % [{found.lo:+.2f}, {found.hi:+.2f}]" if enough else "no interval of so few"
    lines += ["", f"{SCORES[key]}: Kendall's τ-b {found.tau:+.2f}, {interval}"]
    for board, scores in ((first, a), (second, b)):
        if taus := [tau_b(scores[:, one], scores[:, other]) for one, other in combinations(range(scores.shape[1]), 2)]:
            lines.append(f"between two seeds of {board.name}: {', '.join(f'{tau:+.2f}' for tau in taus)}")
    lines += _discordant(labels, a.mean(1), b.mean(1))
    return "\n".join([*lines, verdict(found, first, second, len(labels))])


def _family(model: str) -> str:
    try:
        return model_card(model).family
    except Exception:  # another package's model, which may not be installed here, is a family of its own
        return model


def _discordant(labels: Sequence[str], a: NDArray[np.float64], b: NDArray[np.float64]) -> list[str]:
    pairs = list(combinations(np.argsort(-a), 2))
    found = [
        f"  {labels[i]} above {labels[j]}: {a[i]:.3f} > {a[j]:.3f}, but {b[i]:.3f} < {b[j]:.3f}"
        for i, j in pairs
        if (a[i] - a[j]) * (b[i] - b[j]) < 0
    ]
    return [f"{len(found)} of {len(pairs)} pairs stand the other way round", *found]


def verdict(found: Tau, first: Board, second: Board, configurations: int) -> str:
    """What may be said of it."""
    short = []
    if configurations < LEAST_CONFIGURATIONS:
        short.append(f"configurations: {configurations}, {LEAST_CONFIGURATIONS} are needed")
    for board in (first, second):
        if len(board.seeds) < LEAST_SEEDS:
            short.append(f"seeds in {board.name}: {len(board.seeds)}, {LEAST_SEEDS} are needed")
    if short:
        return f"No claim of transfer: too little to tell ({'; '.join(short)})."
    if np.isnan(found.lo):
        return "No claim of transfer: τ has no value, for one of the two gives all the same score."
    if found.lo <= 0 <= found.hi:
        return "No claim of transfer: the interval includes zero."
    if found.hi < 0:
        return f"No transfer: the interval is below zero, what leads in {first.name} trails in {second.name}."
    return f"The order in {first.name} says something of the order in {second.name}: the interval excludes zero."


def tau_interval(a: ArrayLike, b: ArrayLike, family: Sequence[str], *, n: int = RESAMPLES, seed: int = 0) -> Tau:
    """τ-b of the mean scores of the same configurations.

    Args:
        a, b: (N, seeds) scores of either board, N ≥ 2; how many seeds may differ.
        family: of each configuration, drawn as a whole.

    A resample in which all of one board tie has no τ and is left out.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    rng = np.random.default_rng(seed)
    names, member = np.unique(family, return_inverse=True)
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), n)[:, member]
    means = []
    for scores in (a, b):
        seeds = scores.shape[1]
        means.append(rng.multinomial(seeds, np.full(seeds, 1 / seeds), n) @ scores.T / seeds)
    taus, tau = tau_b(*means, times), float(tau_b(a.mean(1), b.mean(1)))
    if np.isnan(tau) or np.isnan(taus).all():
        return Tau(tau, np.nan, np.nan)
    lo, hi = np.nanquantile(taus, [0.025, 0.975])
    return Tau(tau, float(lo), float(hi))


def tau_b(x: NDArray[Any], y: NDArray[Any], times: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """(…, N) twice -> (…): Kendall's coefficient with its correction for ties; NaN where all of one are tied.

    `times`: (…, N) how often each of the N is there, once by default.
    """
    times = np.ones(x.shape) if times is None else times
    a, b = (np.sign(values[..., :, None] - values[..., None, :]) for values in (x, y))
    weight = times[..., :, None] * times[..., None, :]
    both, of_a, of_b = ((weight * product).sum((-2, -1)) for product in (a * b, a * a, b * b))
    whole = np.sqrt(of_a * of_b)
    return np.divide(both, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


if __name__ == "__main__":
    run_cli(main)

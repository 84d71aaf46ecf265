"""Which differences between models are more than luck: paired, over blocks and seeds, corrected for many pairs.

Pixels of one stroke are not independent, so blocks of at least a letter's pitch are resampled, not pixels; runs of one
model differ by seed, so seeds are resampled with them. Two models are compared on the same blocks and seeds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.bench.result import Result
from zoo.bench.score import BLOCK_FILE
from zoo.significance import dice_of

MIN_BLOCKS = 30  # with fewer the bootstrap interval is too short to be trusted, and no rank is given
DRAWS = 4000


@dataclass(frozen=True)
class Difference:
    """Dice of one configuration minus another's: estimate, 95 % interval, two-sided p, blocks, seeds."""

    estimate: float
    low: float
    high: float
    p: float
    blocks: int
    seeds: int

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass
class Standing:
    """Where a configuration ends up."""

    label: str
    dice: float
    low: float
    high: float
    group: int | None = None  # 1 is the leader's; None where no rank can be given
    to_leader: Difference | None = None
    above: dict[str, Difference] = field(default_factory=dict)  # floor -> difference to it


def standings(results: Sequence[Result], out: Path, *, floors: Sequence[str], seed: int = 0) -> list[Standing]:
    """Rank the configurations of finished runs by Dice.

    A configuration is in the leader's group unless it differs from the leader at 5 % after Holm's correction over all
    comparisons with the leader; the next group is formed against its own first in the same way.
    """
    counts = _counts(results, out)
    rows = []
    for label, runs in counts.items():
        draws = _draws(runs, seed)
        low, high = np.quantile(draws, [0.025, 0.975])
        rows.append(Standing(label, _mean_dice(runs), float(low), float(high)))
    rows.sort(key=lambda row: -row.dice)
    group, left = 1, rows
    while left:
        leader, *others = left
        against = [difference(counts[leader.label], counts[row.label], seed=seed) for row in others]
        apart = _holm([d.p for d in against])
        if group == 1:
            for row, d in zip(others, against, strict=True):
                row.to_leader = d
        tied = [leader, *(row for row, differs in zip(others, apart, strict=True) if not differs)]
        for row in tied:
            row.group = group
        left = [row for row, differs in zip(others, apart, strict=True) if differs]
        group += 1
    if counts and _at_stake(*counts.values()) < MIN_BLOCKS:
        for row in rows:
            row.group = None
    for row in rows:
        for floor in floors:
            if floor in counts and floor != row.label:
                row.above[floor] = difference(counts[row.label], counts[floor], seed=seed)
    return rows


Key = tuple[str, int]  # fold, seed
Runs = dict[Key, NDArray[np.int64]]  # -> (blocks, 3): true positives, false positives, false negatives


def difference(a: Runs, b: Runs, *, seed: int = 0) -> Difference:
    """Paired difference of Dice, a minus b, over the runs (fold, seed) that both have."""
    common = [key for key in a if key in b]
    if not common:
        raise ValueError("the two models share no fold and seed; run both with the same --folds and --seeds")
    ours, theirs = {key: a[key] for key in common}, {key: b[key] for key in common}
    draws = _draws(ours, seed) - _draws(theirs, seed)
    low, high = np.quantile(draws, [0.025, 0.975])
    # The +1 keeps a p-value from being exactly zero: it cannot be known finer than the number of draws.
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (len(draws) + 1))
    return Difference(
        _mean_dice(ours) - _mean_dice(theirs), float(low), float(high), p, _at_stake(ours, theirs), len(_seeds(ours))
    )


def _counts(results: Sequence[Result], out: Path) -> dict[str, Runs]:
    counts: dict[str, Runs] = defaultdict(dict)
    for result in results:
        if result.status == "ok":
            with np.load(out / "runs" / result.run_id / BLOCK_FILE, allow_pickle=False) as arrays:
                counts[result.spec.label][result.spec.fold, result.spec.seed] = arrays["counts"].astype(np.int64)
    return counts


def _seeds(runs: Runs) -> list[NDArray[np.int64]]:
    """The blocks of all folds of each seed: counts accumulate over folds and are divided once, seeds are averaged."""
    return [
        np.concatenate([runs[key] for key in sorted(runs) if key[1] == seed])
        for seed in sorted({seed for _, seed in runs})
    ]


def _at_stake(*configurations: Runs) -> int:
    """Blocks in which any seed of any configuration has ink or predicts it; the others say nothing."""
    return int(np.any([counts.any(1) for runs in configurations for counts in _seeds(runs)], axis=0).sum())


def _mean_dice(runs: Runs) -> float:
    return float(np.mean([dice_of(counts.sum(0)) for counts in _seeds(runs)]))


def _draws(runs: Runs, seed: int) -> NDArray[np.float64]:
    """Bootstrap draws of the mean Dice over seeds; runs of equal shape draw the same blocks and seeds."""
    rng = np.random.default_rng([seed, 20230412])
    counts = _seeds(runs)
    blocks = len(counts[0])
    if any(len(other) != blocks for other in counts):
        raise ValueError("the seeds of a model were scored on different folds; give the same --folds to every seed")
    weights = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=DRAWS)
    dice = np.stack([dice_of(weights @ of_seed) for of_seed in counts], axis=1)
    chosen = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=DRAWS)
    return (dice * chosen).sum(1) / len(counts)


def _holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which hypotheses Holm's step-down procedure rejects at a family-wise `level`."""
    rejected = [False] * len(p_values)
    for step, index in enumerate(np.argsort(p_values)):
        if p_values[index] > level / (len(p_values) - step):
            break
        rejected[index] = True
    return rejected

"""Where configurations stand: ranked by Dice, told apart by paired differences over runs and blocks.

Two configurations are compared on the same folds, seeds and blocks (`zoo.significance`); whoever lacks a run that
others have is shown, but neither ranked nor compared.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.bench.result import Result
from zoo.bench.score import AUC_BLOCK, BLOCK_FILE
from zoo.metrics import BlockScores
from zoo.significance import (
    PairedInterval,
    Scatter,
    Scores,
    auc_scores,
    dice_of,
    dice_scores,
    paired,
    reversed_difference,
    scatter,
    score_interval,
    seed_variance,
    whole_blocks,
)

MIN_BLOCKS = 30  # with fewer the resampling says too little, and no rank is given
ONE_RUN_SD = 0.02
"""Standard deviation over seeds that scores are taken to have in a bench of one run a configuration, which cannot see
it: about what the models on the board of `dipole` have in Dice (.019)."""

Key = tuple[str, int]
"""Fold and seed."""


@dataclass(frozen=True)
class Scored:
    """What a run left for comparison: counts (blocks, 3) of TP, FP, FN a letter block, and its 16-px blocks."""

    counts: NDArray[np.int64]
    blocks: BlockScores
    parts: NDArray[np.float64]  # which part of each letter block counts


@dataclass
class Standing:
    """Where a configuration ends up. `dice` is the mean over its runs; the interval is its own, for show."""

    label: str
    dice: float
    low: float | None = None
    high: float | None = None
    complete: bool = True  # it has every fold and seed that any configuration has
    seed_sd: float | None = None  # standard deviation of its Dice over seeds; None of one seed
    outlier: bool = False  # that is too large beside the others' for a rank
    group: int | None = None  # 1 is the leader's; None for floors and controls, and where no rank can be given
    to_leader: PairedInterval | None = None  # this one − the leader
    above: dict[str, PairedInterval] = field(default_factory=dict)  # floor -> difference of Dice to it
    above_auc: dict[str, PairedInterval] = field(default_factory=dict)  # floor -> difference of block AUC to it
    blocks: int | None = None  # whole letter blocks with ink, on which the ranks rest


def standings(results: Sequence[Result], out: Path, *, floors: Sequence[str]) -> list[Standing]:
    """Rank the configurations of finished runs by Dice, and hold each against every floor."""
    scored = _load(results, out)
    dice, auc = _dice(scored), _auc(scored, max((result.spec.letter_px for result in results), default=AUC_BLOCK))
    trained = {result.spec.label for result in results if not result.spec.floor}
    apart = {result.spec.label for result in results if result.spec.control} | set(floors)
    contenders = {label: one for label, one in dice.items() if label not in apart}
    of_dice, of_auc = (
        scatter_of_runs(
            [one for label, one in of.items() if label not in apart],
            [one for label, one in of.items() if label in apart & trained],
        )
        for of in (dice, auc)
    )
    groups = rank(contenders, of_dice)
    blocks = whole_blocks(list(contenders.values()))
    rows = []
    for label, runs in scored.items():
        row = Standing(label, float(np.mean([dice_of(run.counts.sum(0)) for run in runs.values()])))
        row.complete = label in dice
        if row.complete:
            alone = of_dice if dice[label].runs.size == 1 and label in trained else None
            _, row.low, row.high, *_ = score_interval(dice[label], alone)
            row.above = _above(label, dice, floors, of_dice)
            row.above_auc = _above(label, auc, floors, of_auc)
            row.group, row.to_leader = groups.get(label, (None, None))
            row.blocks = blocks if label in contenders else None
            row.seed_sd = math.sqrt(seed_variance(dice[label])) if dice[label].runs.shape[1] > 1 else None
            row.outlier = label in contenders and seed_variance(dice[label]) >= of_dice.outlier
        rows.append(row)
    return sorted(rows, key=lambda row: -row.dice)


def scatter_of_runs(models: Sequence[Scores], floors: Sequence[Scores] = ()) -> Scatter:
    """`zoo.significance.scatter`, and of one run a configuration, which cannot tell, what is taken for it."""
    single = all(one.runs.size == 1 for one in (*models, *floors))
    return Scatter(ONE_RUN_SD**2, math.inf) if single else scatter(models, floors)


def row_scores(results: Sequence[Result], out: Path) -> dict[str, Scores]:
    """Label -> Dice of finished runs, of the configurations that have every fold and seed."""
    return _dice(_load(results, out))


def _above(
    label: str, scores: Mapping[str, Scores], floors: Sequence[str], among: Scatter
) -> dict[str, PairedInterval]:
    """Difference of a configuration to each floor but itself."""
    others = [floor for floor in floors if floor in scores and floor != label]
    return {floor: paired(scores[label], scores[floor], among) for floor in others}


def rank(scores: Mapping[str, Scores], among: Scatter) -> dict[str, tuple[int, PairedInterval | None]]:
    """Group of each configuration, and its difference to the leader; nothing where there are too few blocks.

    All pairs are compared, with Holm's correction at 5 % over all of them. A configuration is in the leader's group
    unless it differs from the leader; the next group is formed by the first of those left in the same way. No group is
    given where fewer than 30 whole letter blocks hold ink, and none to a configuration that scatters too much over
    seeds: wherever it stood, hardly anything could be told from it.

    Args:
        among: the scatter of the configurations, see `zoo.significance.scatter`.
    """
    if whole_blocks(list(scores.values())) < MIN_BLOCKS:
        return {}
    scores = {label: one for label, one in scores.items() if seed_variance(one) < among.outlier}
    order = sorted(scores, key=lambda label: -scores[label].runs.mean())
    pairs = list(combinations(order, 2))
    differences = [paired(scores[a], scores[b], among) for a, b in pairs]
    apart = dict(zip(pairs, holm([difference.p for difference in differences]), strict=True))
    to_leader = {
        b: reversed_difference(found) for (a, b), found in zip(pairs, differences, strict=True) if a == order[0]
    }
    groups: dict[str, tuple[int, PairedInterval | None]] = {}
    left, group = order, 1
    while left:
        tied = [label for label in left if label == left[0] or not apart[left[0], label]]
        groups |= {label: (group, to_leader.get(label)) for label in tied}
        left, group = [label for label in left if label not in tied], group + 1
    return groups


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which hypotheses Holm's step-down procedure rejects at a family-wise `level`."""
    rejected = [False] * len(p_values)
    for step, index in enumerate(np.argsort(p_values)):
        if p_values[index] > level / (len(p_values) - step):
            break
        rejected[index] = True
    return rejected


def _grids(scored: Mapping[str, Mapping[Key, Scored]]) -> dict[str, list[list[Scored]]]:
    """Label -> runs by fold and seed, of the configurations that have all that any has."""
    folds = sorted({fold for runs in scored.values() for fold, _ in runs})
    seeds = sorted({seed for runs in scored.values() for _, seed in runs})
    every = {(fold, seed) for fold in folds for seed in seeds}
    whole = {label: runs for label, runs in scored.items() if runs.keys() == every}
    return {label: [[runs[fold, seed] for seed in seeds] for fold in folds] for label, runs in whole.items()}


def _dice(scored: Mapping[str, Mapping[Key, Scored]]) -> dict[str, Scores]:
    grids = _grids(scored)
    return {
        label: dice_scores(
            [np.stack([run.counts for run in of_fold]) for of_fold in grid], [of_fold[0].parts for of_fold in grid]
        )
        for label, grid in grids.items()
    }


def _auc(scored: Mapping[str, Mapping[Key, Scored]], pitch: int) -> dict[str, Scores]:
    grids = _grids(scored)
    return {
        label: auc_scores([[run.blocks for run in of_fold] for of_fold in grid], block=AUC_BLOCK, pitch=pitch)
        for label, grid in grids.items()
    }


def _load(results: Sequence[Result], out: Path) -> dict[str, dict[Key, Scored]]:
    scored: dict[str, dict[Key, Scored]] = defaultdict(dict)
    for result in results:
        if result.status == "ok":
            with np.load(out / "runs" / result.run_id / BLOCK_FILE, allow_pickle=False) as saved:
                blocks = BlockScores(saved["score"], saved["ink"], saved["row"], saved["col"])
                counts = saved["counts"]
                whole = result.spec.letter_px**2
                # an earlier version did not keep the pixels: every block was taken for a whole one
                parts = saved["pixels"] / whole if "pixels" in saved else np.ones(len(counts))
                scored[result.spec.label][result.spec.fold, result.spec.seed] = Scored(counts, blocks, parts)
    return scored

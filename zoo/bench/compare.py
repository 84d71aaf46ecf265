"""Where configurations stand: ranked by Dice, told apart by paired differences over blocks and seeds.

Two configurations are compared on the same blocks and seeds (`zoo.significance`); whoever lacks a run of the others'
folds and seeds is shown, but neither ranked nor compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.bench.result import Result
from zoo.bench.score import AUC_BLOCK, BLOCK_FILE, ROW_STRIDE
from zoo.metrics import BlockScores
from zoo.significance import PairedInterval, dice_interval, dice_of, paired_auc_bootstrap, paired_bootstrap

MIN_BLOCKS = 30  # with fewer the bootstrap interval is too short to be trusted, and no rank is given
_SEED = 20230412

Key = tuple[str, int]
"""Fold and seed."""


@dataclass(frozen=True)
class Scored:
    """What a run left for comparison: counts (blocks, 3) of TP, FP, FN a letter block, and its 16-px blocks."""

    counts: NDArray[np.int64]
    blocks: BlockScores


@dataclass
class Standing:
    """Where a configuration ends up."""

    label: str
    dice: float
    low: float
    high: float
    complete: bool  # it has every fold and seed that any configuration has
    group: int | None = None  # 1 is the leader's; None where no rank can be given
    to_leader: PairedInterval | None = None
    above: dict[str, PairedInterval] = field(default_factory=dict)  # floor -> difference of Dice to it
    above_auc: dict[str, PairedInterval] = field(default_factory=dict)  # floor -> difference of block AUC to it


def standings(results: Sequence[Result], out: Path, *, floors: Sequence[str]) -> list[Standing]:
    """Rank the configurations of finished runs by Dice.

    A configuration is in the leader's group unless it differs from the leader at 5 % after Holm's correction over all
    comparisons with the leader; the next group is formed against its own first in the same way. No group is given
    where fewer than 30 letter blocks hold ink or are called ink by a model that is no floor.
    """
    scored = _load(results, out)
    every = {key for runs in scored.values() for key in runs}
    counts = {label: _counts(runs) for label, runs in scored.items()}
    rows = [
        Standing(
            label,
            float(dice_of(per_seed.sum(1)).mean()),
            *dice_interval(per_seed, seed=_SEED),
            complete=scored[label].keys() == every,
        )
        for label, per_seed in counts.items()
    ]
    rows.sort(key=lambda row: -row.dice)
    compared = [row for row in rows if row.complete]
    models = [counts[row.label] for row in compared if row.label not in floors]
    if models and int(np.any([m.any((0, 2)) for m in models], axis=0).sum()) >= MIN_BLOCKS:
        _group(compared, counts)
    pitch = max((result.spec.letter_px for result in results), default=AUC_BLOCK)
    blocks = {row.label: _blocks(scored[row.label]) for row in compared}
    for row in compared:
        for floor in (floor for floor in floors if floor in blocks and floor != row.label):
            row.above[floor] = paired_bootstrap(counts[row.label], counts[floor], seed=_SEED)
            row.above_auc[floor] = paired_auc_bootstrap(
                blocks[row.label], blocks[floor], seed=_SEED, block=AUC_BLOCK, pitch=pitch
            )
    return rows


def _group(rows: list[Standing], counts: dict[str, NDArray[np.int64]]) -> None:
    group, left = 1, rows
    while left:
        leader, *others = left
        against = [paired_bootstrap(counts[leader.label], counts[row.label], seed=_SEED) for row in others]
        differs = holm([difference.p for difference in against])
        leader.group = group
        for row, difference, apart in zip(others, against, differs, strict=True):
            if group == 1:
                row.to_leader = difference
            if not apart:
                row.group = group
        left = [row for row, apart in zip(others, differs, strict=True) if apart]
        group += 1


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Which hypotheses Holm's step-down procedure rejects at a family-wise `level`."""
    rejected = [False] * len(p_values)
    for step, index in enumerate(np.argsort(p_values)):
        if p_values[index] > level / (len(p_values) - step):
            break
        rejected[index] = True
    return rejected


def _load(results: Sequence[Result], out: Path) -> dict[str, dict[Key, Scored]]:
    scored: dict[str, dict[Key, Scored]] = defaultdict(dict)
    for result in results:
        if result.status == "ok":
            with np.load(out / "runs" / result.run_id / BLOCK_FILE, allow_pickle=False) as saved:
                blocks = BlockScores(saved["score"], saved["ink"], saved["row"], saved["col"])
                scored[result.spec.label][result.spec.fold, result.spec.seed] = Scored(saved["counts"], blocks)
    return scored


def _by_seed(runs: dict[Key, Scored]) -> list[list[Scored]]:
    """The folds of each seed that has all of the configuration's folds, in one order."""
    folds = {fold for fold, _ in runs}
    seeds = sorted({seed for _, seed in runs if all((fold, seed) in runs for fold in folds)})
    if not seeds:  # a run failed in every seed: what is there is shown as if of one
        return [[runs[key] for key in sorted(runs)]]
    return [[runs[fold, seed] for fold in sorted(folds)] for seed in seeds]


def _counts(runs: dict[Key, Scored]) -> NDArray[np.int64]:
    """(seeds, blocks, 3): folds follow one another, so that their counts are divided once."""
    return np.stack([np.concatenate([fold.counts for fold in folds]) for folds in _by_seed(runs)])


def _blocks(runs: dict[Key, Scored]) -> list[BlockScores]:
    """The 16-px blocks of each seed; rows of later folds are moved on, so that no two folds share a row."""
    joined = []
    for folds in _by_seed(runs):
        shift, parts = 0, []
        for fold in folds:
            parts.append(fold.blocks._replace(row=fold.blocks.row + shift))
            shift += ROW_STRIDE * (1 + int(fold.blocks.row.max(initial=0)) // ROW_STRIDE)
        joined.append(BlockScores(*(np.concatenate(column) for column in zip(*parts, strict=True))))
    return joined

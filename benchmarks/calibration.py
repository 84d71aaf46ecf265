"""How often the leaderboard's ranks err: simulated benches with a known truth, ranked as every bench is.

    python benchmarks/calibration.py [--benches 500]

A bench has several models and four trained floors (zmean, zmax, zstd, zbest) on the same folds and seeds. The first two
models are the pair that is asked about: equal, or the first better by .05 Dice; the others are equal to the second, the
floors are .2 worse. A run's Dice scatters by .02 over seeds (and, where said, a configuration's by .02 over folds); a
fold's region has 800 letter blocks, as a Kaggle fragment has, whose ink and difficulty vary, and which each
configuration finds more or less hard (.1). "Told apart" is that the two are not in one group.

The other tables are harder cases. One run each: nothing tells what seeds scatter, .02 is taken for it, and they scatter
by that (on 800 and on 96 blocks) or by twice as much. Floors: fewer, or such as scatter less than the models do,
down to not at all (a floor that calls everything ink). Board: as many models as in benchmarks/boards, on one fold of 96
blocks. First: the worst case for a scatter that is taken from all configurations, one of the pair that scatters three
times as much over seeds as everybody else. Last: one beside the pair that scatters six times as much.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.bench.compare import rank, scatter_of_runs
from zoo.significance import Scores, dice_scores

FLOORS = 4
SEED_SD, BLOCKS, BLOCK_SD = 0.02, 800, 0.1


class Case(NamedTuple):
    """A bench. `share`: how much floors scatter, of what models do; `every`: how much all do, of .02; `first`, `last`:
    how much the first model does, and the last one, which is not of the pair."""

    folds: int
    seeds: int
    models: int
    fold_sd: float = 0.0
    floors: int = FLOORS
    share: float = 1.0
    blocks: int = BLOCKS
    every: float = 1.0
    first: float = 1.0
    last: float = 1.0


def cases(shapes: Sequence[tuple[int, int, int]], **more: float) -> list[Case]:
    """Each shape without and with a scatter over folds, where there are several."""
    return [
        Case(*shape, fold_sd=fold_sd, **more)  # pyright: ignore[reportArgumentType]
        for shape in shapes
        for fold_sd in ((0.0, 0.02) if shape[0] > 1 else (0.0,))
    ]


TABLES = {
    "the bench that a suite with four trained floors makes": cases(
        [(3, 3, 2), (3, 3, 3), (3, 3, 5), (1, 3, 3), (3, 1, 3), (3, 5, 3), (5, 3, 3), (8, 3, 3)]
    ),
    "one run each": [Case(1, 1, 2), Case(1, 1, 3), Case(1, 1, 2, blocks=96)],
    "one run each, seeds scatter twice as much": [Case(1, 1, 2, every=2.0)],
    "one floor": cases([(3, 3, 2)], floors=1),
    "four floors that scatter by 70 %, 50 %, 20 % of what models do, and not at all": [
        case for share in (0.7, 0.5, 0.2, 0.0) for case in cases([(3, 3, 2)], share=share)
    ],
    "a board of 19 models, 96 blocks": cases([(1, 3, 19)], blocks=96),
    "the first model's runs scatter 3 times as much as the others'": [
        Case(1, 3, 3, first=3.0),
        Case(3, 3, 3, first=3.0),
    ],
    "the last model's runs scatter 6 times as much as the others'": [Case(3, 3, 5, last=6.0), Case(1, 3, 5, last=6.0)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--benches", type=int, default=500)
    benches = parser.parse_args().benches
    print(f"{benches} benches a row; share in which the pair is told apart, with its 95 % interval")
    for title, rows in TABLES.items():
        print(f"\n{title}\n\nfolds  seeds  models  fold SD   equal               better by .05")
        for case in rows:
            found = [shown(told_apart(benches, case, better), benches) for better in (0.0, 0.05)]
            print(f"{case.folds:5}  {case.seeds:5}  {case.models:6}  {case.fold_sd:7}   {'  '.join(found)}", flush=True)


def told_apart(benches: int, case: Case, better: float, *, seed: int = 0) -> int:
    """In how many of so many benches the first two configurations are in two groups."""
    rng = np.random.default_rng([seed, *(round(1000 * value) for value in case), round(1000 * better)])
    apart = 0
    for _ in range(benches):
        scores = bench(rng, case, better)
        models = {label: one for label, one in scores.items() if label.isdecimal()}
        floors = [one for label, one in scores.items() if label not in models]
        groups = rank(models, scatter_of_runs(list(models.values()), floors))
        apart += len({groups[label][0] for label in ("0", "1") if label in groups}) == 2  # outliers have none
    return apart


def bench(rng: np.random.Generator, case: Case, better: float) -> dict[str, Scores]:
    """The scores of a bench whose first model is better than the others, which are equal."""
    floors = [f"floor {number}" for number in range(case.floors)]
    labels = [*map(str, range(case.models)), *floors]
    above = {"0": better} | dict.fromkeys(floors, -0.2)
    spread = {"0": case.first, str(case.models - 1): case.last} | dict.fromkeys(floors, case.share)
    counts: dict[str, list[NDArray[np.int64]]] = {label: [] for label in labels}
    for _ in range(case.folds):
        ink = rng.lognormal(8, 0.7, case.blocks).astype(np.int64) + 1
        hard = rng.normal(0, BLOCK_SD, case.blocks)
        for label, of_model in counts.items():
            alive = case.share if label in floors else 1.0
            level = 0.6 + above.get(label, 0.0) + rng.normal(0, case.fold_sd) * alive
            run = level + rng.normal(0, SEED_SD * case.every * spread.get(label, 1.0), (case.seeds, 1))
            own = hard + rng.normal(0, BLOCK_SD, case.blocks) * alive
            found = np.rint(ink * np.clip(run + own, 0, 1)).astype(np.int64)
            of_model.append(np.stack([found, ink - found, ink - found], -1))
    return {label: dice_scores(of_model, n=100) for label, of_model in counts.items()}


def shown(hits: int, of: int) -> str:
    low, high = wilson(hits, of)
    return f"{hits / of:5.3f} [{low:.3f}, {high:.3f}]"


def wilson(hits: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share."""
    share = hits / of
    middle, reach = share + z * z / (2 * of), z * sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return (middle - reach) / (1 + z * z / of), (middle + reach) / (1 + z * z / of)


if __name__ == "__main__":
    main()

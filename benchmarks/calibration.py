"""How often the leaderboard's ranks err: simulated benches with a known truth, ranked as every bench is.

    python benchmarks/calibration.py [--benches 500]

A bench has several models and one trained floor on the same folds and seeds. The first two models are the pair that is
asked about: equal, or the first better by .05 Dice; the others are equal to the second, the floor is .2 worse. A run's
Dice scatters by .02 over seeds (and, where said, a configuration's by .02 over folds); a fold's region has 800 letter
blocks, as a Kaggle fragment has, whose ink and difficulty vary, and which each configuration finds more or less hard
(.1). "Told apart" is that the two are not in one group. The last rows are the worst case for a scatter that is taken
from all configurations: the first model's runs scatter three times as much over seeds as everybody else's.
"""

from __future__ import annotations

import argparse
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from zoo.bench.compare import rank
from zoo.significance import Scores, dice_scores, scatter

FLOOR = "floor"
SEED_SD, BLOCKS, BLOCK_SD = 0.02, 800, 0.1
CASES = ((3, 3, 2), (3, 3, 3), (3, 3, 5), (1, 3, 3), (3, 1, 3), (3, 5, 3), (5, 3, 3), (8, 3, 3))
WILD, WILD_CASES = 3, ((1, 3, 3), (3, 3, 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--benches", type=int, default=500)
    benches = parser.parse_args().benches
    print(f"{benches} benches a row; share in which the pair is told apart, with its 95 % interval\n")
    print("folds  seeds  models  fold SD   equal               better by .05")
    for folds, seeds, models in CASES:
        for fold_sd in (0.0, 0.02) if folds > 1 else (0.0,):
            found = [told_apart(benches, folds, seeds, models, better, fold_sd) for better in (0.0, 0.05)]
            print_row(folds, seeds, models, fold_sd, found)
    print(f"\nthe first model's runs scatter {WILD} times as much as the others'\n")
    for folds, seeds, models in WILD_CASES:
        found = [told_apart(benches, folds, seeds, models, better, 0.0, wild=WILD) for better in (0.0, 0.05)]
        print_row(folds, seeds, models, 0.0, found)


def print_row(folds: int, seeds: int, models: int, fold_sd: float, found: list[tuple[int, int]]) -> None:
    print(f"{folds:5}  {seeds:5}  {models:6}  {fold_sd:7}   {shown(*found[0])}  {shown(*found[1])}", flush=True)


def told_apart(
    benches: int,
    folds: int,
    seeds: int,
    models: int,
    better: float,
    fold_sd: float,
    *,
    wild: float = 1.0,
    seed: int = 0,
) -> tuple[int, int]:
    """(benches in which the first two configurations are in two groups, benches)."""
    rng = np.random.default_rng([seed, folds, seeds, models, round(1000 * better), round(1000 * fold_sd)])
    apart = 0
    for _ in range(benches):
        scores = bench(rng, folds, seeds, models, better, fold_sd, wild)
        among = scatter(list(scores.values()))
        groups = rank({label: one for label, one in scores.items() if label != FLOOR}, among)
        apart += groups["0"][0] != groups["1"][0]
    return apart, benches


def bench(
    rng: np.random.Generator, folds: int, seeds: int, models: int, better: float, fold_sd: float, wild: float = 1.0
) -> dict[str, Scores]:
    """The scores of a bench whose first model is better than the others, which are equal."""
    labels = [*map(str, range(models)), FLOOR]
    above = {"0": better, FLOOR: -0.2}
    counts: dict[str, list[NDArray[np.int64]]] = {label: [] for label in labels}
    for _ in range(folds):
        ink = rng.lognormal(8, 0.7, BLOCKS).astype(np.int64) + 1
        hard = rng.normal(0, BLOCK_SD, BLOCKS)
        for label, of_model in counts.items():
            level = 0.6 + above.get(label, 0.0) + rng.normal(0, fold_sd)
            run = level + rng.normal(0, SEED_SD * (wild if label == "0" else 1), (seeds, 1))
            found = np.rint(ink * np.clip(run + hard + rng.normal(0, BLOCK_SD, BLOCKS), 0, 1)).astype(np.int64)
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

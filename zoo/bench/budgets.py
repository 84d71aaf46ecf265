"""Budgets in words, and what more or less training does to the order: Dice by budget, and who change places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from zoo.bench.compare import row_scores, scatter_of_runs
from zoo.bench.result import Result
from zoo.significance import PairedInterval, Scores, paired, reversed_difference
from zoo.train.config import TrainConfig


def told_loss(train: Mapping[str, Any]) -> str:
    """The loss of training settings in words: `1·bce + 1·dice`."""
    loss = train.get("loss") or TrainConfig.model_fields["loss"].default
    if isinstance(loss, str):
        return " + ".join(f"1·{name}" for name in loss.split("+"))
    return " + ".join(f"{_weight(of)}·{name}" for name, of in loss.items())


def _weight(given: Any) -> str:
    """A term's weight, with its parameters behind it."""
    if not isinstance(given, Mapping):
        return f"{given:g}"
    more = ", ".join(f"{key} {value}" for key, value in given.items() if key != "weight")
    return f"{given.get('weight', 1):g}" + (f" ({more})" if more else "")


@dataclass(frozen=True)
class Crossing:
    """Two rows of which one leads at a smaller budget and the other at a larger one; differences are first − second.

    `told_apart`: both differences exclude zero at 95 %, each for itself: of many pairs some do by chance.
    """

    first: str
    second: str
    budgets: tuple[float, float]
    differences: tuple[PairedInterval, PairedInterval]

    @property
    def told_apart(self) -> bool:
        return all(difference.lo > 0 or difference.hi < 0 for difference in self.differences)

    def __str__(self) -> str:
        before, after = (f"×{budget:g}" for budget in self.budgets)
        leads, trails = (f"{abs(difference.diff):.3f}" for difference in self.differences)
        noise = "" if self.told_apart else ", which may be chance"
        return f"{self.first} leads {self.second} by {leads} at {before} and trails it by {trails} at {after}{noise}"


@dataclass(frozen=True)
class Budgets:
    """Dice of every row at every budget, and the crossings; nothing where there was one budget only."""

    dice: dict[str, dict[float, float]]
    crossings: list[Crossing]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        crossings = [{**asdict(one), "told_apart": one.told_apart} for one in self.crossings]
        return {"dice": {label: {f"{b:g}": v for b, v in at.items()} for label, at in self.dice.items()}} | {
            "crossings": [{**one, "differences": [d._asdict() for d in one["differences"]]} for one in crossings]
        }

    def lines(self) -> list[str]:
        """For a table's caption."""
        if not self.dice:
            return []
        rows = (f"{label} " + " / ".join(f"{value:.3f}" for value in at.values()) for label, at in self.dice.items())
        budgets = " / ".join(f"×{budget:g}" for budget in next(iter(self.dice.values())))
        crossed = [f"rank crossing: {crossing}" for crossing in self.crossings] or ["rank crossings: none"]
        return [f"Dice at {budgets} the budget: {'; '.join(rows)}", *crossed]


def by_budget(results: Sequence[Result], out: Path, *, floors: Sequence[str]) -> Budgets:
    """Compare the rows at every budget that was run; a row has to have all folds and seeds at all of them."""
    own = [result for result in results if not result.spec.labels_turned and not result.spec.floor]
    budgets = sorted({result.spec.budget for result in own})
    if len(budgets) < 2:
        return Budgets({}, [])
    at: dict[float, dict[str, Scores]] = {}
    for budget in budgets:
        of_budget = [result for result in own if result.spec.budget == budget]
        rows = {result.spec.label: result.spec.row for result in of_budget}
        at[budget] = {rows[label]: scores for label, scores in row_scores(of_budget, out).items()}
    everywhere = [label for label in at[1.0] if all(label in scores for scores in at.values())]
    dice = {label: {budget: float(at[budget][label].runs.mean()) for budget in budgets} for label in everywhere}
    return Budgets(dice, _crossings(at, [label for label in everywhere if label not in floors]))


def _crossings(at: dict[float, dict[str, Scores]], labels: Sequence[str]) -> list[Crossing]:
    among = {
        budget: scatter_of_runs(
            [one for label, one in scores.items() if label in labels],
            [one for label, one in scores.items() if label not in labels],
        )
        for budget, scores in at.items()
    }
    found = []
    for pair in combinations(labels, 2):
        differences = {budget: paired(at[budget][pair[0]], at[budget][pair[1]], among[budget]) for budget in at}
        for less, more in combinations(at, 2):
            before, after = differences[less], differences[more]
            if before.diff * after.diff < 0:
                leader, other = pair if before.diff > 0 else pair[::-1]
                both = (before, after) if before.diff > 0 else (reversed_difference(before), reversed_difference(after))
                found.append(Crossing(leader, other, (less, more), both))
    return found

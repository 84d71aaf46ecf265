"""The leaderboard of a bench: one row a configuration, from Results only. How it is shown: `zoo.bench.tables`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from statistics import fmean, median
from typing import Any

from zoo.bench.compare import Standing, standings
from zoo.bench.plan import TURNED, RunSpec
from zoo.bench.result import Result
from zoo.registry import model_card
from zoo.significance import PairedInterval
from zoo.train.given import given_weights

QUALITY = (
    *("dice", "f05", "iou", "accuracy", "surface_dice", "pseudo_f", "centre_line_recall"),
    *("auc", "auc_blocks", "auc_rows", "ap", "ap_lift", "prevalence", "ece"),
    *("class_accuracy", "mean_dice"),
)
"""Scores of every row, None where it has none. Of several classes `dice_class_0` and so on follow, one a class."""


@dataclass
class Row:
    """One configuration over all its folds and seeds: means of its runs' scores and of `train_seconds`, the largest of
    their peaks of memory, medians of all other times, rates, FLOPs, energies and batches; what they have in common
    (parameters, steps, budget, kind of memory) is the first one's.

    Attributes:
        rank: 1 is the group that cannot be told from the leader; None for floors, controls and what cannot be ranked.
        blocks: whole letter blocks with ink, on which the ranks rest.
        seed_sd: standard deviation of Dice over seeds.
        each_run: fold, seed, Dice and AUC of 16-px blocks of every run.
        failures: which of the controls that every claim must pass it does not.
        unchecked: which of them could not be looked at for this row, though the bench has them.
        not_run: which of them the bench did not run for any row.
        warnings: what else to know before it is believed.
        floor: whether it is what a claim must exceed.
        control: whether it is no claim of its own: trained and scored on turned labels, and so must not score, or fed
            with layers robbed of their order.
    """

    label: str
    model: str
    status: str
    reason: str = ""
    rank: int | None = None
    dice: float | None = None
    dice_low: float | None = None
    dice_high: float | None = None
    seed_sd: float | None = None
    each_run: list[dict[str, Any]] = field(default_factory=list)
    to_leader: dict[str, Any] | None = None
    above_floors: dict[str, dict[str, Any]] = field(default_factory=dict)
    above_floors_auc: dict[str, dict[str, Any]] = field(default_factory=dict)
    quality: dict[str, float | None] = field(default_factory=dict)
    controls: dict[str, float | None] = field(default_factory=dict)
    blocks: int | None = None
    failures: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    parameters: int | None = None
    train_mb: float | None = None
    inference_mb: float | None = None
    memory_kind: str = ""
    step_seconds: float | None = None
    steps: int | None = None
    train_seconds: float | None = None
    megapixels_per_second: float | None = None
    budget: str = ""
    tile_flops: float | None = None
    step_flops: float | None = None
    tiles_per_second: float | None = None
    train_36000_tiles_hours: float | None = None
    kaggle_fragment_hours: float | None = None
    train_joules_per_1000_tiles: float | None = None
    inference_joules_per_1000_tiles: float | None = None
    batch_in_12_gb: float | None = None
    batch_in_16_gb: float | None = None
    batch_in_24_gb: float | None = None
    batch_in_80_gb: float | None = None
    floor: bool = False
    control: bool = False
    runs: int = 0
    times_scored: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """failed, not checked, passed, or passed those run where the bench lacks some; empty for floors, for controls
        that do as they should, and without a score."""
        if self.floor or self.dice is None or (self.control and not self.failures):
            return ""
        passed = "passed those run" if self.not_run else "passed"
        return "failed" if self.failures else "not checked" if self.unchecked else passed


def build_rows(results: Sequence[Result], out: Path, *, floors: Sequence[str]) -> list[Row]:
    """Rows ranked by Dice; where that cannot tell them apart, by training memory, least first. Then floors, controls,
    and what failed."""
    own = [result for result in results if not result.spec.labels_turned]
    ranked = {standing.label: standing for standing in standings(own, out, floors=floors)}
    by_label: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_label[result.spec.label].append(result)
    rows = {label: _row(label, runs, ranked.get(label), floors) for label, runs in by_label.items()}
    any_turned = any(result.spec.labels_turned for result in results)
    for label, row in rows.items():
        if row.floor or row.control:
            continue
        row.not_run = [*([] if any_turned else [TURNED]), *([] if floors else ["floors"])]
        turned = rows.get(f"{label}, {TURNED}")
        if turned is None:
            row.unchecked += [f"{TURNED}: not run"] if any_turned and row.dice is not None else []
            continue
        row.failures += [f"trained on turned labels it {failure}" for failure in turned.failures]
        if turned.status != "ok" or turned.unchecked:
            row.unchecked.append(f"turned labels: {'; '.join(turned.unchecked) or turned.status.replace('_', ' ')}")
    return sorted(rows.values(), key=_place)


def _place(row: Row) -> tuple[int, int, float, float]:
    """Models, floors, controls, failed runs; of models by rank, in a rank by memory; all else by Dice."""
    kind = 3 if row.dice is None else 2 if row.control else 1 if row.floor else 0
    memory = (row.train_mb or float("inf")) if row.rank else 0.0
    return kind, row.rank or 10**6, memory, -(row.dice or 0)


def _row(label: str, runs: list[Result], standing: Standing | None, floors: Sequence[str]) -> Row:
    good = [run for run in runs if run.status == "ok"]
    bad = [run for run in runs if run.status != "ok"]
    status = "ok" if not bad else bad[0].status if not good else f"{len(bad)} of {len(runs)} runs failed"
    row = Row(label, runs[0].spec.model, status, bad[0].reason if bad else "", runs=len(good))
    row.settings = {"options": runs[0].spec.options, **{k: v for k, v in runs[0].spec.train.items() if k != "seed"}}
    row.floor, row.control = label in floors, runs[0].spec.control
    if not good:
        return row
    row.dice = _mean([run.quality.get("dice") for run in good])
    row.each_run = [
        {"fold": run.spec.fold, "seed": run.spec.seed} | {key: run.quality.get(key) for key in ("dice", "auc_blocks")}
        for run in sorted(good, key=lambda run: (run.spec.fold, run.spec.seed))
    ]
    if standing is not None:
        row.rank, row.blocks, row.seed_sd = standing.group, standing.blocks, standing.seed_sd
        row.dice_low, row.dice_high = (_known(end) for end in (standing.low, standing.high))
        row.to_leader = _as_json(standing.to_leader) if standing.to_leader else None
        row.above_floors = {floor: _as_json(difference) for floor, difference in standing.above.items()}
        row.above_floors_auc = {floor: _as_json(difference) for floor, difference in standing.above_auc.items()}
        if not standing.complete:
            row.warnings.append("not ranked: it lacks folds or seeds that others have")
        if standing.outlier:
            row.warnings.append(
                f"not ranked: its seeds end too far apart (SD of Dice {standing.seed_sd:.2f}); more of them are needed"
            )
    sources = [source for run in good if (source := run.controls.get("started_from"))]
    if sources:
        row.settings["start_from"] = f"{sources[0]['name']}, SHA-256 {sources[0]['sha256'][:12]}"
    row.warnings += _weights(runs[0].spec, sources)
    if failed := max(run.spec.failed_trials for run in runs):
        row.warnings.append(f"{failed} of its trials failed, so it was tuned on fewer")
    row.times_scored = max(run.times_scored for run in good)
    row.quality = {key: _mean([run.quality.get(key) for run in good]) for key in (*QUALITY, *class_scores(good))}
    row.controls = {"false_ink_on_blank": _mean([run.controls.get("false_ink_on_blank") for run in good])}
    row.controls["null_auc"], row.controls["null_high"] = _null(good)
    cost: dict[str, list[Any]] = {key: [run.cost.get(key) for run in good] for key in _COSTS}
    row.warnings += _disturbed(good)
    row.parameters, row.steps = _first(cost["parameters"]), _first(cost["steps"])
    row.train_mb, row.inference_mb = _megabytes(cost["train_bytes"]), _megabytes(cost["inference_bytes"])
    row.step_seconds, row.train_seconds = _mean(cost["step_seconds"], median), _mean(cost["train_seconds"])
    row.megapixels_per_second = _mean(cost["megapixels_per_second"], median)
    row.memory_kind = _first(cost["memory_kind"]) or ""
    row.budget = _first([run.cost.get("budget") for run in good]) or ""
    for key in _MEDIANS:
        setattr(row, key, _mean([run.cost.get(key) for run in good if holds(run, key)], median))
    if runs[0].spec.labels_turned:
        row.failures, row.unchecked = _scores_on_turned_labels(row), _no_null(row)
    elif not (row.floor or row.control):
        row.failures, row.unchecked = _failures(row, good), _unchecked(row, floors)
    return row


def _null(runs: Sequence[Result]) -> tuple[float | None, float | None]:
    """Block AUC and the 97.5th percentile of its map's when shifted, means over the runs that have such a null: on the
    fragment of each run where the first exceeds the second least; on turned labels, which must not score, most."""
    pairs = []
    for run in runs:
        found = [(run.controls.get("null_auc", run.quality.get("auc_blocks")), run.controls.get("null_high"))]
        if run.spec.labels_turned and run.per_fragment:
            found = [(scores.get("null_auc"), scores.get("null_high")) for scores in run.per_fragment.values()]
        known = [(auc, high) for auc, high in found if auc is not None and high is not None]
        if known:
            pairs.append(max(known, key=lambda pair: pair[0] - pair[1]))
    return _mean([auc for auc, _ in pairs]), _mean([high for _, high in pairs])


def _disturbed(runs: Sequence[Result]) -> list[str]:
    """Whether a step took so much longer where it was measured than in the runs that it cannot be its own time."""
    pairs = [(run.cost.get("step_seconds"), run.cost.get("run_step_seconds")) for run in runs]
    measured, trained = (_mean([pair[place] for pair in pairs], median) for place in (0, 1))
    if not measured or not trained or measured < _DISTURBED * trained:
        return []
    return [
        f"the machine had other work when its cost was measured: {measured:.2g} s a step, {trained:.2g} s in training; "
        "another --out measures again"
    ]


def holds(run: Result, cost: str) -> bool:
    """Whether a measure of cost says something where this run was: a batch that fits is told of GPUs alone. On a CPU it
    would be drawn out from the growth of resident memory, which is neither the model's alone nor linear."""
    return not cost.startswith("batch_in_") or run.spec.device.startswith("cuda")


def class_scores(scored: Sequence[Result | Row]) -> list[str]:
    """`dice_class_0`, `dice_class_1`, … of every class that any of these runs or rows has, in the classes' order."""
    found = {key for one in scored for key in one.quality if key.startswith(_CLASS)}
    return sorted(found, key=lambda key: int(key.removeprefix(_CLASS)))


def _weights(spec: RunSpec, sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """What weights a configuration starts from, and whether they have seen what is held out."""
    found = []
    if sources:
        seen = [source["held_out_px_seen"] for source in sources]
        if None in seen:
            told = "whether it has seen the test region is not known"
        elif most := max(seen):
            told = f"which was trained on {most} px of what is held out"
        else:
            told = "which has seen nothing of what is held out"
        trained = sources[0].get("trained")
        longer = f"trained for {trained} before" if trained else "how long it was trained before is not on record"
        found.append(f"starts from {sources[0]['name']} ({longer}), SHA-256 {sources[0]['sha256'][:12]}, {told}")
    if given := _given(spec):
        found.append(f"starts from given weights ({given}); what they have seen is not known")
    return found


def _given(spec: RunSpec) -> str:
    """Which options give a model weights; empty where none does, and where its package is not installed here."""
    if not spec.options:
        return ""
    try:
        return given_weights(spec.options, model_card(spec.model).init_options)
    except Exception:  # another package's model: whatever its import raises, the others' rows are still written
        return ""


_CLASS = "dice_class_"
_DISTURBED = 1.5
_COSTS = (
    *("parameters", "steps", "train_bytes", "inference_bytes", "memory_kind"),
    *("step_seconds", "train_seconds", "megapixels_per_second"),
)
_MEDIANS = (
    *("tile_flops", "step_flops", "tiles_per_second", "train_36000_tiles_hours", "kaggle_fragment_hours"),
    *("train_joules_per_1000_tiles", "inference_joules_per_1000_tiles"),
    *("batch_in_12_gb", "batch_in_16_gb", "batch_in_24_gb", "batch_in_80_gb"),
)


def _failures(row: Row, runs: Sequence[Result]) -> list[str]:
    """Which of the controls that every claim must pass a configuration does not."""
    found = []
    for what, differences in (("Dice", row.above_floors), ("AUC", row.above_floors_auc)):
        lows = {floor: difference["lo"] for floor, difference in differences.items()}
        if short := [floor for floor, low in lows.items() if low is not None and low <= 0]:
            found.append(f"{what} not above {', '.join(short)}")
    if (above := _over_null(row)) is not None and above <= 0:
        found.append("not above what its own map scores when shifted")
    if leak := sum((run.controls.get("leak") or {}).get("overlap_px", 0) for run in runs):
        found.append(f"{leak} test pixels were seen in training")
    seen = max(((run.controls.get("started_from") or {}).get("held_out_px_seen") or 0 for run in runs), default=0)
    if seen:
        found.append(f"the weights it starts from were trained on {seen} px of what is held out")
    for alike in _same_order(runs):
        found.append(f"seeds {', '.join(map(str, alike))} drew the same tiles in the same order: they are one seed")
    return found


def _unchecked(row: Row, floors: Sequence[str]) -> list[str]:
    """Which of these controls could not be looked at."""
    missing = [floor for floor in floors if floor not in row.above_floors]
    found = [f"no comparison with {', '.join(missing)}: runs are missing"] if missing else []
    differences = {"Dice": row.above_floors, "AUC": row.above_floors_auc}
    for what, of_floors in differences.items():
        if without := [floor for floor, difference in of_floors.items() if difference["lo"] is None]:
            found.append(f"{what} has no value against {', '.join(without)}")
    return found + _no_null(row)


def _no_null(row: Row) -> list[str]:
    return ["no null: the test region is too small or too large to be shifted"] if _over_null(row) is None else []


def _scores_on_turned_labels(row: Row) -> list[str]:
    """A control fails where it scores: labels were turned by 180°, so that layers tell nothing of them."""
    if (above := _over_null(row)) is not None and above > 0:
        auc, high = (f"{row.controls[key]:.3f}" for key in ("null_auc", "null_high"))
        return [f"still scores: AUC {auc} of 16-px blocks, by chance no more than {high}; a leak, or layout"]
    return []


def _over_null(row: Row) -> float | None:
    """By how much the block AUC lies above what the shifted map scores, means over the runs that have such a null."""
    auc, high = row.controls.get("null_auc"), row.controls.get("null_high")
    return None if auc is None or high is None else auc - high


def _same_order(runs: Sequence[Result]) -> list[list[int]]:
    """Seeds of one fold that drew the same tiles in the same order."""
    seeds: dict[tuple[str, str], list[int]] = defaultdict(list)
    for run in runs:
        if order := run.tiles.get("order"):
            seeds[run.spec.fold, order].append(run.spec.seed)
    return [sorted(alike) for alike in seeds.values() if len(alike) > 1]


def _as_json(difference: PairedInterval) -> dict[str, Any]:
    """As JSON has it, which knows no NaN."""
    return {key: _known(value) for key, value in difference._asdict().items()}


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and isnan(value) else value


def _mean(values: Sequence[float | None], how: Any = fmean) -> float | None:
    known = [value for value in values if value is not None]
    return float(how(known)) if known else None


def _first(values: Sequence[Any]) -> Any:
    return next((value for value in values if value is not None), None)


def _megabytes(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) / 2**20 if known else None

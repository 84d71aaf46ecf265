"""From a suite to its runs: every model × fold × seed, each a self-contained specification."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from data_recipes.fragment import Fragment
from data_recipes.recipe import load_recipe
from data_recipes.regions import Rect, Region
from data_recipes.split import Fold
from data_recipes.split_spec import RectSpec, build_folds
from data_recipes.stamp import data_stamp
from zoo import __version__
from zoo.bench.floors import FLOORS
from zoo.bench.names import slug
from zoo.bench.suite import ModelEntry, Suite, shipped_settings
from zoo.registry import list_families, list_models, model_card, resolve_name
from zoo.train.config import BUDGET, TrainConfig, merge_settings
from zoo.train.given import given_weights

TURNED = "labels turned"
"""What a row is called that was trained and scored on turned labels, after its model."""

SCORING = 1
"""How maps are scored. Raised whenever the same map would get another score, null or block counts (`zoo.bench.score`,
`zoo.bench.floors`, `zoo.metrics`): runs of either are run anew, and not put into one leaderboard."""

_OMITTED_AT = {
    "classes": 1,
    "labels_turned": False,
    "budget": 1.0,
    "trial": False,
    "tried": {},
    "failed_trials": 0,
    "start_sha256": "",
    "scoring": 1,
}
"""Fields that were added since there are runs, and the value at which the digest leaves them out: what a run from
before them was, so that it keeps its folder."""

RectLists = dict[str, list[RectSpec]]


class RunSpec(BaseModel):
    """All that decides one run. Equal specifications are one run, so its digest names the run's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str
    label: str
    model: str
    options: dict[str, Any] = {}
    floor: bool = False
    fold: str
    seed: int
    data: list[str]
    train_rects: RectLists
    calibration_rects: RectLists
    test_rects: RectLists
    buffer: int
    stamps: dict[str, str]
    version: str
    recipe: dict[str, Any]
    tile: int
    depth: int
    classes: int = 1
    offset: int
    clip: tuple[float, float]
    divisor: float
    overlap: float
    letter_px: int
    train: dict[str, Any]
    device: str
    labels_turned: bool = False
    """A control: trained and scored on labels that are turned by 180° over layers that stay."""
    budget: float = 1.0
    """Times the suite's budget."""
    trial: bool = False
    """A trial of settings, scored on validation strips: `test_rects` are the calibration strips then."""
    tried: dict[str, list[Any]] = {}
    """The values among which this run's settings were chosen, on its fold's validation strips."""
    failed_trials: int = 0
    """How many of the trials for this row and fold failed."""
    start_from: str = ""
    """Path of the checkpoint whose weights it starts from; what counts is their digest."""
    start_sha256: str = ""
    scoring: int = 1
    """By which `SCORING` it is scored; 1 where a file does not say."""

    @property
    def control(self) -> bool:
        """Whether it is no claim of its own: trained on turned labels, or fed with layers robbed of their order."""
        return self.labels_turned or bool(self.train.get("degrade"))

    @property
    def row(self) -> str:
        """Label of the configuration that it belongs to: its own, unless it is a control or has another budget."""
        return self.label.removesuffix(f", {TURNED}").removesuffix(_budget_suffix(self.budget))

    @property
    def digest(self) -> str:
        said = self.model_dump(mode="json", exclude={"start_from"})
        for key, omitted in _OMITTED_AT.items():
            if said[key] == omitted:
                del said[key]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    @property
    def run_id(self) -> str:
        """Name of the run's folder: readable, and unique to the specification."""
        return f"{slug(f'{self.label}-{self.fold}-s{self.seed}')[:80]}-{self.digest[:8]}"

    def as_fold(self) -> Fold:
        """The split of this run."""
        train, calibration, test = map(_region, (self.train_rects, self.calibration_rects, self.test_rects))
        return Fold(self.fold, train, calibration, test, self.buffer)


def _region(lists: RectLists) -> Region:
    return {name: tuple(Rect(*rect) for rect in rects) for name, rects in lists.items()}


def _lists(region: Region) -> RectLists:
    return {name: [tuple(rect) for rect in rects] for name, rects in region.items()}  # pyright: ignore[reportReturnType]


def resolve_models(suite: Suite, wanted: list[str] | None, device: str) -> list[ModelEntry]:
    """The rows that were asked for, family names replaced by the variant for this device.

    A token is a label of the suite, a family, a model's name, `module:builder`, or `all` (one of each family, floors
    apart). The suite's floors follow, unless they were asked for by name.
    """
    by_label = {entry.label or entry.name: entry for entry in suite.models}
    names = [entry.label or entry.name for entry in suite.models] if wanted is None else wanted
    tokens = [token for name in names for token in (_comparable_families() if name == "all" else [name])]
    resolved: dict[str, ModelEntry] = {}
    for token in [*tokens, *suite.floors]:
        entry = by_label.get(token, ModelEntry(name=token))
        full = entry.name if entry.name in FLOORS else resolve_name(entry.name, device)
        entry = entry.model_copy(update={"name": full, "label": entry.label or full})
        if resolved.setdefault(entry.label, entry) != entry:
            raise ValueError(f"two different rows are called {entry.label!r}; give one a label of its own")
    return list(resolved.values())


def _comparable_families() -> list[str]:
    return [family for family in list_families() if family != "zfloor"]


def plan_runs(
    suite: Suite,
    models: list[ModelEntry],
    fragments: Mapping[str, Fragment],
    *,
    data: list[str],
    device: str,
    seeds: list[int],
    folds: list[int],
    train: Mapping[str, Any],
) -> list[RunSpec]:
    """Every model × fold × seed in the order in which they run: all models of one fold and seed before the next.

    Where the suite asks for it, what is trained follows with other budgets, and each contender once more with the first
    seed, on labels that are turned.
    """
    runs: list[RunSpec] = []
    recipe = load_recipe(suite.recipe).with_(tile=suite.tile, samples=suite.samples).model_dump(mode="json")
    stamps = {name: data_stamp(fragment) for name, fragment in fragments.items()}
    shipped = {entry.label: _shipped_settings(entry) for entry in models}
    starts = {entry.label: _start(entry) for entry in models}
    for seed in seeds:
        every = build_folds(suite.split, fragments, buffer=suite.buffer, seed=seed)
        bad = [index for index in folds if not 0 <= index < len(every)]
        if bad:
            raise ValueError(f"fold {bad[0]} does not exist; this split has folds 0 to {len(every) - 1}")
        for fold in [every[index] for index in folds] if folds else every:
            for entry in models:
                floor = entry.name in FLOORS
                degrade = {} if entry.input == "full" else {"degrade": entry.input}
                settings = merge_settings(shipped[entry.label], suite.train, entry.train, train, degrade)
                runs.append(
                    RunSpec(
                        suite=suite.name,
                        label=entry.label,
                        model=entry.name,
                        options=entry.options,
                        floor=floor,
                        fold=fold.name,
                        seed=seed,
                        data=data,
                        train_rects=_lists(fold.train),
                        calibration_rects=_lists(fold.calibration),
                        test_rects=_lists(fold.test),
                        buffer=fold.buffer,
                        stamps=stamps,
                        version=__version__,
                        recipe=recipe,
                        tile=suite.tile,
                        depth=suite.depth,
                        classes=suite.classes,
                        offset=suite.offset,
                        clip=suite.clip,
                        divisor=suite.divisor,
                        overlap=suite.overlap,
                        letter_px=suite.letter_px,
                        train={} if floor else {**settings, "seed": seed},
                        device=device,
                        start_from=starts[entry.label][0],
                        start_sha256=starts[entry.label][1],
                        scoring=SCORING,
                    )
                )
    own = [run for run in runs if not run.floor]
    for budget in suite.budgets:
        if budget != 1:
            changed = {"budget": budget}
            runs += [
                run.model_copy(
                    update={**changed, "label": run.label + _budget_suffix(budget), "train": scaled(run.train, budget)}
                )
                for run in own
            ]
    if suite.labels_turned:
        contenders = {entry.label for entry in models if entry.input == "full" and entry.name not in suite.floors}
        runs += [
            run.model_copy(update={"label": f"{run.label}, {TURNED}", "labels_turned": True})
            for run in own
            if run.seed == seeds[0] and run.label in contenders - set(suite.floors)
        ]
    return runs


def scaled(train: Mapping[str, Any], times: float) -> dict[str, Any]:
    """Training settings with so many times the budget, whatever it is counted in; whole steps and tiles, at least 1."""
    if times == 1:
        return dict(train)
    key = next((key for key in BUDGET if train.get(key) is not None), "steps")
    budget = train.get(key) or TrainConfig.model_fields["steps"].default
    return {**train, key: max(1, round(budget * times)) if key in ("steps", "tiles_seen") else budget * times}


def _budget_suffix(budget: float) -> str:
    return "" if budget == 1 else f", budget ×{budget:g}"


def _start(entry: ModelEntry) -> tuple[str, str]:
    """Absolute path and digest of the checkpoint that a row starts from; both empty where it starts from none."""
    if not entry.start_from:
        return "", ""
    path = Path(entry.start_from).expanduser().absolute()
    if not path.is_file():
        raise FileNotFoundError(f"{entry.label or entry.name}: start_from {path}: no such checkpoint; train it first")
    with path.open("rb") as file:
        return str(path), hashlib.file_digest(file, "sha256").hexdigest()


def _shipped_settings(entry: ModelEntry) -> dict[str, Any]:
    family = next((family for family in list_families() if entry.name in list_models(family)), "")
    if not family:
        return {}
    weights = entry.start_from or given_weights(entry.options, model_card(entry.name).init_options)
    return shipped_settings(entry.name, family, pretrained=bool(weights))

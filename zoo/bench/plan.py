"""From a suite to its runs: every model × fold × seed, each a self-contained specification."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from data_recipes.fragment import Fragment
from data_recipes.regions import Rect, Region, whole
from data_recipes.split import Fold, blocks, explicit, leave_one_out
from zoo.bench.floors import FLOORS
from zoo.bench.suite import ModelEntry, RectSpec, SplitSpec, Suite, family_settings
from zoo.registry import list_families, list_models, resolve_name

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
    recipe: str
    samples: int | None
    tile: int
    depth: int
    offset: int
    clip: tuple[float, float]
    divisor: float
    overlap: float
    letter_px: int
    train: dict[str, Any]
    device: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()

    @property
    def run_id(self) -> str:
        """Name of the run's folder: readable, and unique to the specification."""
        safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in f"{self.label}-{self.fold}-s{self.seed}")
        return f"{safe[:80]}-{self.digest[:8]}"

    def fold_object(self) -> Fold:
        """The split of this run."""
        train, calibration, test = map(_region, (self.train_rects, self.calibration_rects, self.test_rects))
        return Fold(self.fold, train, calibration, test, self.buffer)


def _region(lists: RectLists) -> Region:
    return {name: tuple(Rect(*rect) for rect in rects) for name, rects in lists.items()}


def _lists(region: Region) -> RectLists:
    return {name: [tuple(rect) for rect in rects] for name, rects in region.items()}  # pyright: ignore[reportReturnType]


def resolve_models(suite: Suite, wanted: list[str] | None, device: str) -> list[ModelEntry]:
    """The rows that were asked for, family names replaced by the variant for this device.

    A token is a label of the suite, a family, a model's name, `module:builder`, or `all` (the registered tiny variants
    on a CPU, one model a family on a GPU). The suite's floors follow, unless they were asked for by name.
    """
    by_label = {entry.label or entry.name: entry for entry in suite.models}
    if wanted is None:
        chosen = list(suite.models)
    else:
        tokens = [token for name in wanted for token in (list_families() if name == "all" else [name])]
        chosen = [by_label.get(token, ModelEntry(name=token)) for token in dict.fromkeys(tokens)]
    for floor in suite.floors:
        if floor not in {entry.label or entry.name for entry in chosen}:
            chosen.append(by_label.get(floor, ModelEntry(name=floor)))
    resolved: list[ModelEntry] = []
    for entry in chosen:
        full = entry.name if entry.name in FLOORS else resolve_name(entry.name, device)
        resolved.append(entry.model_copy(update={"name": full, "label": entry.label or full}))
    labels = [entry.label for entry in resolved]
    if len(set(labels)) < len(labels):
        raise ValueError(f"two rows have one label: {', '.join(labels)}; give each a label of its own")
    return resolved


def build_folds(split: SplitSpec, fragments: Mapping[str, Fragment], *, buffer: int, seed: int) -> list[Fold]:
    """The folds of a split over the opened fragments; the calibration strip moves on with the seed."""
    parts, index = split.calibration_parts, seed % split.calibration_parts
    if split.kind in ("fragments", "rects"):
        train, test = (_rects(side, fragments) for side in (split.train, split.test))
        return [
            explicit(
                train,
                test,
                buffer=buffer,
                name="test",
                fragments=fragments,
                calibration_parts=parts,
                calibration_index=index,
            )
        ]
    labelled = {name: fragment for name, fragment in fragments.items() if fragment.label is not None}
    if not labelled:
        raise ValueError(f"none of {', '.join(fragments)} has an ink label, so nothing can be trained or scored")
    if split.kind == "leave_one_out" or (split.kind == "auto" and len(labelled) > 1):
        return leave_one_out(labelled, buffer=buffer, calibration_parts=parts, calibration_index=index)
    if len(labelled) > 1:
        raise ValueError(f"split kind blocks is for one fragment, got {len(labelled)}: {', '.join(labelled)}")
    (fragment,) = labelled.values()
    return blocks(
        fragment,
        parts=split.parts,
        axis=split.axis,
        buffer=buffer,
        calibration_parts=parts,
        calibration_index=index,
    )


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
    """Every model × fold × seed in the order in which they run: all models of one fold and seed before the next."""
    runs: list[RunSpec] = []
    for seed in seeds:
        every = build_folds(suite.split, fragments, buffer=suite.buffer, seed=seed)
        bad = [index for index in folds if not 0 <= index < len(every)]
        if bad:
            raise ValueError(f"fold {bad[0]} does not exist; this split has folds 0 to {len(every) - 1}")
        for fold in [every[index] for index in folds] if folds else every:
            for entry in models:
                floor = entry.name in FLOORS
                settings = {**suite.train, **({} if floor else _family_settings(entry.name)), **entry.train, **train}
                if {"steps", "minutes"} <= train.keys() | {key for key in ("steps", "minutes") if key in settings}:
                    settings.pop("minutes" if "steps" in train else "steps", None)
                if entry.input != "full":
                    settings["degrade"] = entry.input
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
                        recipe=suite.recipe,
                        samples=suite.samples,
                        tile=suite.tile,
                        depth=suite.depth,
                        offset=suite.offset,
                        clip=suite.clip,
                        divisor=suite.divisor,
                        overlap=suite.overlap,
                        letter_px=suite.letter_px,
                        train={} if floor else {**settings, "seed": seed},
                        device=device,
                    )
                )
    return runs


def _family_settings(name: str) -> dict[str, Any]:
    family = next((family for family in list_families() if name in list_models(family)), "")
    return family_settings(family) if family else {}


def _rects(side: list[str] | RectLists, fragments: Mapping[str, Fragment]) -> Region:
    """One side of a split that names whole fragments, or rectangles of them."""
    for name in side:
        if name not in fragments:
            raise ValueError(f"the suite's split names fragment {name!r}; the data has {', '.join(fragments)}")
    return _region(side) if isinstance(side, dict) else {name: (whole(fragments[name].shape),) for name in side}

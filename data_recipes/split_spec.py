"""The split as a person writes it, and the folds that it makes of the fragments at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_recipes.regions import Rect, Region, whole
from data_recipes.shots import few_shots
from data_recipes.split import Fold, Holds, blocks, check_calibration, explicit, leave_one_out

RectSpec = tuple[int, int, int, int]
"""y0, y1, x0, x1 in px."""

_ROWS = 256  # of a strip that are looked at for ink: letters are far larger than the gaps between them


class _Plane(Protocol):
    def __getitem__(self, index: tuple[slice, slice], /) -> np.ndarray: ...


class Labelled(Protocol):
    """What a split needs to know of a fragment."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def label(self) -> _Plane | None: ...
    @property
    def papyrus(self) -> _Plane: ...
    @property
    def supervised(self) -> _Plane: ...


class SplitSpec(BaseModel):
    """Which pixels are held out.

    `auto` leaves one fragment out where there are several and takes blocks of it where there is one; `fragments` names
    those for training and those for testing; `rects` names rectangles [y0, y1, x0, x1] of each fragment.

    With `shots` only so many squares of the training side are trained on (`data_recipes.shots`). The calibration strips
    are labelled beside them, so AUC and AP, which need no threshold, are the numbers to read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["auto", "leave_one_out", "blocks", "fragments", "rects"] = "auto"
    parts: int = Field(default=2, ge=2, description="blocks: into how many, each held out in turn")
    axis: Literal["auto", "rows", "columns"] = "auto"
    train: list[str] | dict[str, list[RectSpec]] = []
    test: list[str] | dict[str, list[RectSpec]] = []
    buffer: int | None = Field(
        default=None, ge=0, description="px between training and held-out pixels; never below the tile"
    )
    calibration_parts: int = Field(
        default=6, ge=2, description="one strip in so many of the training region sets the threshold"
    )
    calibration: list[str] = Field(
        default=[],
        description="fragments: those that set the threshold, whole, where strips of them and a buffer have no room",
    )
    shots: int | None = Field(
        default=None, ge=1, description="squares of the training side that are trained on; none: all of it"
    )
    shot_px: int = Field(default=256, ge=16, description="side of such a square; at least the tile")

    @model_validator(mode="after")
    def _names_what_it_needs(self) -> SplitSpec:
        wanted = {"fragments": list, "rects": dict}.get(self.kind)
        if wanted and not (
            self.train and self.test and isinstance(self.train, wanted) and isinstance(self.test, wanted)
        ):
            shape = "a list of fragment names" if wanted is list else "rectangles by fragment name"
            raise ValueError(f"split kind {self.kind} needs train and test, each {shape}")
        if self.calibration:
            if self.kind != "fragments":
                raise ValueError(f"calibration names fragments for split kind fragments; this one is {self.kind}")
            if twice := sorted({*self.train, *self.test} & {*self.calibration} | {*self.train} & {*self.test}):
                raise ValueError(f"the split names {', '.join(twice)} for two of train, calibration and test")
        return self


def build_folds(split: SplitSpec, fragments: Mapping[str, Labelled], *, buffer: int, seed: int) -> list[Fold]:
    """The folds of a split over the opened fragments; the calibration strip moves on with the seed.

    It moves over the strips that hold ink as well as blank supervised papyrus, which the label of the training side
    decides; the test side's label is never read. Fragments without a label take no part: `Fold.left_out` names them.

    Args:
        split: as written in a suite.
        fragments: name -> fragment.
        buffer: px between training pixels and those held out.
        seed: of the run.

    Raises:
        ValueError: no label, a name or rectangle that is not there, no room, no strip to choose a threshold on, or too
            few squares for the shots.
    """
    named = [*split.train, *split.test, *split.calibration] if split.kind in ("fragments", "rects") else []
    for name in named:
        if name not in fragments:
            raise ValueError(f"the split names fragment {name!r}; the data has {', '.join(fragments)}")
        if fragments[name].label is None:
            raise ValueError(
                f"the split names fragment {name!r}, which has no ink label; add the label or leave it out"
            )
    labelled = {name: fragment for name, fragment in fragments.items() if fragment.label is not None}
    if not labelled:
        raise ValueError(f"none of {', '.join(fragments)} has an ink label, so nothing can be trained or scored")
    parts, index, holds = split.calibration_parts, seed % split.calibration_parts, _contents(labelled)
    if split.calibration:
        train, held, test = (_planes(side, labelled) for side in (split.train, split.calibration, split.test))
        folds = [Fold("test", train, held, test, buffer)]
        check_calibration(folds[0], holds)
    elif named:
        train, test = (_rects(side, labelled) for side in (split.train, split.test))
        folds = [
            explicit(
                train,
                test,
                buffer=buffer,
                name="test",
                fragments=labelled,
                calibration_parts=parts,
                calibration_index=index,
                holds=holds,
            )
        ]
    elif split.kind == "leave_one_out" or (split.kind == "auto" and len(labelled) > 1):
        folds = leave_one_out(labelled, buffer=buffer, calibration_parts=parts, calibration_index=index, holds=holds)
    elif len(labelled) > 1:
        raise ValueError(f"split kind blocks is for one fragment, got {len(labelled)}: {', '.join(labelled)}")
    else:
        (fragment,) = labelled.values()
        folds = blocks(
            fragment,
            parts=split.parts,
            axis=split.axis,
            buffer=buffer,
            calibration_parts=parts,
            calibration_index=index,
            holds=holds,
        )
    if split.shots is not None:
        folds = [few_shots(fold, shots=split.shots, side=split.shot_px, seed=seed, holds=holds) for fold in folds]
    left_out = tuple(name for name in fragments if name not in labelled)
    return [replace(fold, left_out=left_out) for fold in folds]


def _rects(
    side: list[str] | dict[str, list[RectSpec]], fragments: Mapping[str, Labelled]
) -> Mapping[str, Sequence[Sequence[int]]]:
    """One side of a split that names rectangles of fragments, or whole ones."""
    return side if isinstance(side, dict) else _planes(side, fragments)


def _planes(names: Iterable[str], fragments: Mapping[str, Labelled]) -> Region:
    return {name: (whole(fragments[name].shape),) for name in names}


def _contents(fragments: Mapping[str, Labelled]) -> Holds:
    """What the strips hold, from some of their rows: a strip of a large scan must not cost a pass over it."""
    seen: dict[tuple[str, Rect], tuple[bool, bool]] = {}

    def holds(name: str, strip: Rect) -> tuple[bool, bool]:
        if (name, strip) not in seen:
            fragment = fragments[name]
            at = slice(strip.y0, strip.y1, max(1, min(8, strip.height // _ROWS))), slice(strip.x0, strip.x1)
            counted = np.asarray(fragment.papyrus[at]) & np.asarray(fragment.supervised[at])
            assert fragment.label is not None
            ink = np.asarray(fragment.label[at]) > 0
            seen[name, strip] = bool((ink & counted).any()), bool((~ink & counted).any())
        return seen[name, strip]

    return holds

"""Folds with a buffer, and the leak report that stops a run whose training tiles come near what is held out.

A fold names three regions of the fragments, each a list of rectangles: `train` (where training tiles may lie),
`calibration` (a strip of the training side that is never trained on: the decision threshold is chosen there, at its
natural prevalence) and `test`. Training lies at least `buffer` px (Chebyshev distance) from both others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from data_recipes.regions import Rect, Region, subtract_all, whole

if TYPE_CHECKING:
    from data_recipes.table import SampleTable


class Sized(Protocol):
    """What a split needs to know of a fragment: its name and its (H, W) in px."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int]: ...


Holds = Callable[[str, Rect], tuple[bool, bool]]
"""(fragment, rectangle of it) -> whether that has supervised papyrus with ink, and without. Asked of strips only."""


@dataclass(frozen=True)
class Fold:
    """One way to train, calibrate and test. All rectangles in px of the named fragment; `buffer` in px.

    `left_out` names the fragments at hand that take no part because they have no ink label.
    """

    name: str
    train: Region
    calibration: Region
    test: Region
    buffer: int
    left_out: tuple[str, ...] = ()

    def as_dict(self) -> dict:
        """Plain lists, for a Result."""
        plain = {
            part: {name: [list(rect) for rect in rects] for name, rects in region.items()}
            for part, region in (("train", self.train), ("calibration", self.calibration), ("test", self.test))
        }
        return {"name": self.name, "buffer": self.buffer, "left_out": list(self.left_out), **plain}


def leave_one_out(
    fragments: Mapping[str, Sized],
    *,
    buffer: int,
    calibration_parts: int = 5,
    calibration_index: int = 0,
    holds: Holds | None = None,
) -> list[Fold]:
    """One fold a fragment: it is the test, the others are trained on, each less its calibration strip.

    Where `holds` tells what strips hold, those with ink and blank papyrus are preferred, here and below.

    Raises ValueError with fewer than two fragments, and where no strip can set a threshold.
    """
    if len(fragments) < 2:
        raise ValueError(f"leave-one-fragment-out needs at least two fragments, got {len(fragments)}: use blocks")
    planes = {name: (whole(fragment.shape),) for name, fragment in fragments.items()}
    return [
        _fold(
            held_out,
            {name: rects for name, rects in planes.items() if name != held_out},
            {held_out: planes[held_out]},
            buffer,
            calibration_parts,
            calibration_index,
            holds,
        )
        for held_out in planes
    ]


def blocks(
    fragment: Sized,
    *,
    parts: int = 2,
    axis: Literal["auto", "rows", "columns"] = "auto",
    buffer: int,
    calibration_parts: int = 5,
    calibration_index: int = 0,
    holds: Holds | None = None,
) -> list[Fold]:
    """One fragment cut into `parts` blocks along an axis (`auto`: the longer one), each held out in turn."""
    if parts < 2:
        raise ValueError(f"a fragment is split into at least 2 blocks, got {parts}")
    if axis not in ("auto", "rows", "columns"):
        raise ValueError(f"a split runs along rows, columns or auto, got {axis!r}")
    plane = whole(fragment.shape)
    if axis == "auto":
        axis = "columns" if plane.width > plane.height else "rows"
    pieces = _cut(plane, parts, axis)
    return [
        _fold(
            f"{fragment.name}-{axis}-{number + 1}of{parts}",
            {fragment.name: tuple(piece for piece in pieces if piece != test)},
            {fragment.name: (test,)},
            buffer,
            calibration_parts,
            calibration_index,
            holds,
        )
        for number, test in enumerate(pieces)
    ]


def explicit(
    train: Mapping[str, Sequence[Sequence[int]]],
    test: Mapping[str, Sequence[Sequence[int]]],
    *,
    buffer: int,
    name: str = "explicit",
    fragments: Mapping[str, Sized] | None = None,
    calibration_parts: int = 5,
    calibration_index: int = 0,
    holds: Holds | None = None,
) -> Fold:
    """The fold of a suite that names its rectangles (y0, y1, x0, x1); training is cut back to the buffer if nearer.

    Raises ValueError for an empty rectangle, for test rectangles that overlap (their pixels would count twice), and,
    where `fragments` are given, for a rectangle that leaves its fragment.
    """
    if fragments is not None:
        _check_inside(train, fragments)
        _check_inside(test, fragments)
    held_out = _region(test)
    for fragment, rects in held_out.items():
        for one, other in combinations(rects, 2):
            if one.intersect(other):
                raise ValueError(
                    f"{fragment}: the test rectangles {tuple(one)} and {tuple(other)} overlap: the pixels they "
                    "share would count twice; make them disjoint"
                )
    return _fold(name, _region(train), held_out, buffer, calibration_parts, calibration_index, holds)


def _region(rectangles: Mapping[str, Sequence[Sequence[int]]]) -> Region:
    region = {}
    for name, rects in rectangles.items():
        region[name] = tuple(Rect(*rect) for rect in rects)
        for rect in region[name]:
            if rect.y0 < 0 or rect.x0 < 0 or rect.height <= 0 or rect.width <= 0:
                raise ValueError(f"{name}: rectangle {tuple(rect)} is empty or negative; give y0 < y1, x0 < x1")
    return region


def _check_inside(rectangles: Mapping[str, Sequence[Sequence[int]]], fragments: Mapping[str, Sized]) -> None:
    for name, rects in rectangles.items():
        if name not in fragments:
            raise ValueError(f"the split names fragment {name!r}, the data given are {', '.join(fragments)}")
        plane = whole(fragments[name].shape)
        for rect in rects:
            if plane.intersect(Rect(*rect)) != Rect(*rect):
                raise ValueError(
                    f"the split names rectangle {tuple(rect)} of {name}, which has {plane.height}×{plane.width} px: "
                    "it was written for another fragment"
                )


def _cut(rect: Rect, parts: int, axis: str) -> tuple[Rect, ...]:
    """The rectangle as `parts` strips along an axis, equal to a pixel."""
    along_rows = axis == "rows"
    start, stop = (rect.y0, rect.y1) if along_rows else (rect.x0, rect.x1)
    ends = [start + (stop - start) * i // parts for i in range(parts + 1)]
    return tuple(
        Rect(a, b, rect.x0, rect.x1) if along_rows else Rect(rect.y0, rect.y1, a, b) for a, b in pairwise(ends)
    )


def _fold(
    name: str,
    side: Region,
    test: Region,
    buffer: int,
    calibration_parts: int,
    calibration_index: int,
    holds: Holds | None,
) -> Fold:
    if buffer < 0:
        raise ValueError(f"a buffer is at least 0 px, got {buffer}")
    if calibration_parts < 2:
        raise ValueError(f"calibration takes one of at least 2 parts of the training side, got {calibration_parts}")
    train: dict[str, tuple[Rect, ...]] = {}
    calibration: dict[str, tuple[Rect, ...]] = {}
    for fragment, rects in side.items():
        away = subtract_all(_disjoint(rects), [rect.grow(buffer) for rect in test.get(fragment, ())])
        strips = []
        for rect in away:
            possible = _strips(rect, test.get(fragment, ()), buffer, calibration_parts)
            if holds is not None:
                possible = _fit_for_a_threshold(possible, fragment, holds)
            strips += possible[calibration_index % len(possible) :][:1] if possible else []
        kept = subtract_all(away, [strip.grow(buffer) for strip in strips])
        if kept:
            train[fragment] = kept
        if strips:
            calibration[fragment] = tuple(strips)
    if not train or not calibration:
        sizes = ", ".join(f"{n}: {r.height}×{r.width}" for n, rects in side.items() for r in rects) or "nothing"
        raise ValueError(
            f"fold {name}: no room for training and calibration beside a buffer of {buffer} px "
            f"(training side {sizes}); use a smaller tile and buffer, other parts, or a larger fragment"
        )
    fold = Fold(name, train, calibration, dict(test), buffer)
    if holds is not None:
        check_calibration(fold, holds)
    return fold


def check_calibration(fold: Fold, holds: Holds) -> None:
    """ValueError where a fold's calibration region lacks ink or blank papyrus: no threshold can be chosen there."""
    found = [holds(fragment, strip) for fragment, strips in fold.calibration.items() for strip in strips]
    for there, what in zip(map(any, zip(*found, strict=True)), ("ink", "blank papyrus"), strict=True):
        if not there:
            raise ValueError(
                f"fold {fold.name}: no calibration strip of {', '.join(fold.calibration)} holds supervised papyrus "
                f"with and without ink ({what} is missing), so no threshold can be chosen; check the label and the "
                "supervision mask of the training side, or use fewer calibration_parts"
            )


def _fit_for_a_threshold(strips: list[Rect], fragment: str, holds: Holds) -> list[Rect]:
    """The strips with both ink and blank papyrus; where there are none, those with either, and then all."""
    held = {strip: sum(holds(fragment, strip)) for strip in strips}
    most = max(held.values(), default=0)
    return [strip for strip in strips if held[strip] == most]


def _disjoint(rects: Sequence[Rect]) -> tuple[Rect, ...]:
    """The same area without any pixel twice."""
    out: list[Rect] = []
    for rect in rects:
        out.extend(subtract_all([rect], out))
    return tuple(out)


def _strips(rect: Rect, test: Sequence[Rect], buffer: int, parts: int) -> list[Rect]:
    """The possible calibration strips of one training rectangle, across its longer axis; none where it has no room.

    Strips are ordered by what they cost: an end has to keep its distance on one side only, and the end far from the
    test comes first. A strip is never thinner than the buffer (one tile must fit), and leaves as much for training.
    """
    axis = "columns" if rect.width > rect.height else "rows"
    side = max(rect.height, rect.width)
    while parts > 2 and side // parts < buffer:
        parts -= 1
    strips = [strip for strip in _cut(rect, parts, axis) if max(_longest(rect, strip, buffer)) >= max(buffer, 1)]
    if not strips or side // parts < buffer:
        return []

    def cost(strip: Rect) -> tuple[int, int, Rect]:
        lost = rect.intersect(strip.grow(buffer))
        near = min((_distance(strip, other) for other in test), default=0)
        return (lost.area if lost else 0) - strip.area, -near, strip

    return sorted(strips, key=cost)


def _longest(rect: Rect, strip: Rect, buffer: int) -> list[int]:
    """Sides of what a strip leaves for training, along the axis it was cut."""
    left = rect.subtract(strip.grow(buffer))
    return [part.width if strip.height == rect.height else part.height for part in left] or [0]


def _distance(a: Rect, b: Rect) -> int:
    """Chebyshev gap in px between two rectangles, 0 where they touch."""
    return max(a.y0 - b.y1, b.y0 - a.y1, a.x0 - b.x1, b.x0 - a.x1, 0)


@dataclass(frozen=True)
class LeakReport:
    """Distinct pixels of what is held out that training tiles cover; every count but the sizes must be 0."""

    tiles: int
    tiles_at_fault: int
    overlap_px: int
    within_buffer_px: int
    calibration_overlap_px: int
    calibration_within_buffer_px: int
    test_px: int
    calibration_px: int
    buffer: int

    @property
    def clean(self) -> bool:
        return self.tiles_at_fault == 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)

    def check(self) -> LeakReport:
        """The report itself, or ValueError with the figures where a training tile comes too near."""
        if not self.clean:
            raise ValueError(
                f"leak: {self.tiles_at_fault} of {self.tiles} training tiles reach what is held out: "
                f"{self.overlap_px} px of the test region, {self.within_buffer_px} px of its {self.buffer}-px buffer, "
                f"{self.calibration_overlap_px} px of the calibration strips, {self.calibration_within_buffer_px} px "
                "of theirs; sample training tiles from fold.train only"
            )
        return self


def leak_report(table: SampleTable, tile: int, fold: Fold) -> LeakReport:
    """Count, exactly, the held-out pixels that the training tiles (`tile` px square) of a table cover.

    `overlap_px` and `within_buffer_px` count each pixel of the test region, and of its buffer, once.
    """
    guilty = np.zeros(len(table), bool)
    counts, sizes = [], []
    for region in (fold.test, fold.calibration):
        overlap = near = size = 0
        for fragment, rects in region.items():
            own = np.flatnonzero(table.names == fragment)
            y, x = table.y[own].astype(np.int64), table.x[own].astype(np.int64)
            core = _disjoint(rects)
            halo = subtract_all(_disjoint([rect.grow(fold.buffer) for rect in rects]), core)
            for rect in core + halo:
                hit = (y < rect.y1) & (y + tile > rect.y0) & (x < rect.x1) & (x + tile > rect.x0)
                guilty[own[hit]] = True
                if rect in core:
                    size += rect.area
                    overlap += _covered(y[hit], x[hit], tile, rect)
                else:
                    near += _covered(y[hit], x[hit], tile, rect)
        counts += [overlap, near]
        sizes.append(size)
    (overlap, near, strip_overlap, strip_near), (test, calibration) = counts, sizes
    return LeakReport(
        len(table), int(guilty.sum()), overlap, near, strip_overlap, strip_near, test, calibration, fold.buffer
    )


def _covered(y: np.ndarray, x: np.ndarray, tile: int, rect: Rect) -> int:
    """Pixels of `rect` that lie in at least one tile."""
    if not len(y):
        return 0
    seen = np.zeros((rect.height, rect.width), bool)
    for top, left in np.unique(np.stack([y - rect.y0, x - rect.x0], 1), axis=0):
        seen[max(top, 0) : top + tile, max(left, 0) : left + tile] = True
    return int(np.count_nonzero(seen))

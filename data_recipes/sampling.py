"""From an ink label to a table of tiles: edges, ratio buckets, void, grid and random positions.

Every count of pixels in a window comes from a summed-area table. Planes are read in bands of rows, so that memory
depends on the fragment's width alone, and what is drawn does not depend on where the bands lie: random numbers are
drawn for the whole part in row-major order, from a seed derived from (seed, fragment, part, kind).

No window touches a pixel of the validation mask: the data's maker holds those out.

The ink ratio of a window is its ink pixels over its supervised papyrus pixels: what a masked loss sees. Where all of
a window counts this is ink pixels / tile², as published.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import cv2
import numpy as np

from data_recipes.quotas import plan_parts
from data_recipes.recipe import Quota, Recipe
from data_recipes.regions import Rect, Region
from data_recipes.report import KindReport, PartReport, Report
from data_recipes.scan import BAND, Band, Plane, Scan
from data_recipes.table import SampleTable

HALO = 4  # rows that Canny needs beyond a band: one for the gradient, one for the thinning, and some


class Planes(Protocol):
    """What sampling needs of a fragment."""

    @property
    def label(self) -> Plane | None: ...
    @property
    def papyrus(self) -> Plane: ...
    @property
    def supervised(self) -> Plane: ...
    @property
    def validation(self) -> Plane | None: ...
    @property
    def shape(self) -> tuple[int, int]: ...


def build_table(
    fragments: Mapping[str, Planes], region: Region | None, recipe: Recipe, *, seed: int
) -> tuple[SampleTable, Report]:
    """The tiles of a recipe over all fragments, or over the rectangles of `region` only.

    Raises ValueError where a label is missing, where edges are asked for and no label has any, where the recipe asks
    nothing of these fragments, or where no rectangle holds a tile.
    """
    planned, missing = plan_parts({name: fragment.shape for name, fragment in fragments.items()}, region, recipe)
    if not any(any(part.quota.model_dump().values()) for part in planned):
        raise ValueError(
            f"recipe {recipe.name} asks for no tile of {', '.join(fragments) or 'nothing'}: it has quotas for "
            f"{', '.join(recipe.parts) or 'no part'}; give `each` a quota"
        )
    sides = [min(rect.height, rect.width) for part in planned for rect in part.rects]
    if max(sides, default=0) < recipe.tile:
        raise ValueError(
            f"a tile of {recipe.tile} px fits nowhere: the largest rectangle is {max(sides, default=0)} px on its "
            "shorter side; use a smaller tile or a larger fragment"
        )
    tables, reports = [], []
    for part in planned:
        fragment = fragments[part.fragment]
        if fragment.label is None:
            raise ValueError(f"{part.fragment}: no ink label, and recipe {recipe.name} samples by it; add the label")
        table, report = sample_part(
            fragment.label,
            fragment.papyrus,
            fragment.supervised,
            recipe,
            validation=fragment.validation,
            seed=seed,
            fragment=part.fragment,
            part=part.name,
            rects=part.rects,
            quota=part.quota,
        )
        tables.append(table)
        reports.append(report)
    edges = [kind for report in reports for kind in report.kinds if kind.kind == "edge"]
    if edges and not any(kind.edge_px for kind in edges):
        names = ", ".join(dict.fromkeys(part.fragment for part in planned))
        raise ValueError(
            f"no ink edge in the label of {names}: it is all zero (or all ink) where tiles may lie, and recipe "
            f"{recipe.name} samples around edges; check the label file, or use the recipe grid or random"
        )
    return SampleTable.concat(tables), Report(recipe, tuple(reports + missing))


def sample_part(
    label: Plane,
    papyrus: Plane,
    supervised: Plane,
    recipe: Recipe,
    *,
    validation: Plane | None = None,
    seed: int,
    fragment: str,
    part: str,
    rects: Sequence[Rect],
    quota: Quota,
) -> tuple[SampleTable, PartReport]:
    """The tiles of one part, each wholly in one of `rects` and mostly supervised papyrus; a pure function.

    label (H,W) class index (ink is > 0); papyrus, supervised and validation (H,W) bool: no tile touches the last.
    Rows come in the order edge, void, random, grid,
    each by (y, x). What a kind cannot fill is in the report, with its reason.
    """
    fitting = [rect for rect in rects if min(rect.height, rect.width) >= recipe.tile]
    scan = Scan(label, papyrus, supervised, validation, recipe, fitting)
    no_room = "" if scan.rects else f"no rectangle of the part holds a tile of {recipe.tile} px"
    tables, reports = [], []

    def rng(kind: str) -> np.random.Generator:
        digest = hashlib.sha256(f"{seed}\0{fragment}\0{part}\0{kind}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:16], "little"))

    def report(kind: str, asked: int, got: int, valid: int, what: str) -> None:
        reason = f"only {valid} windows are {what}" if got < asked else ""
        reports.append(KindReport(kind, asked, got, valid, reason=reason))

    if quota.edge:
        y, x, ratio, bucket, edges = _edges(scan, quota.edge, rng("edge"))
        tables.append(SampleTable.of(fragment, y, x, ratio, bucket, "edge"))
        reports.append(edges)
    if quota.void:
        y, x, valid = _pick(scan, scan.void_map, quota.void, rng("void"))
        tables.append(SampleTable.of(fragment, y, x, np.zeros(len(y)), -1, "void"))
        report("void", quota.void, len(y), valid, f"without ink and {scan.margin} px inside the papyrus")
    if quota.random:
        y, x, valid = _pick(scan, scan.papyrus_map, quota.random, rng("random"))
        tables.append(SampleTable.of(fragment, y, x, scan.ratio(*scan.counts(y, x)), -1, "random"))
        report("random", quota.random, len(y), valid, "mostly supervised papyrus")
    if quota.grid:
        stride = max(1, round(recipe.stride * recipe.tile))
        grid = grid_table(
            fragment,
            rects,
            label,
            papyrus,
            supervised,
            validation=validation,
            tile=recipe.tile,
            stride=stride,
            min_papyrus=recipe.min_papyrus,
        )
        valid = len(grid)
        asked = valid if quota.grid == "all" else quota.grid
        if asked < valid:
            grid = grid[np.sort(rng("grid").choice(valid, asked, replace=False))]
        tables.append(grid)
        report("grid", asked, len(grid), valid, f"on the grid of stride {stride} px and mostly supervised papyrus")
    if no_room:
        reports = [kind.because(no_room) for kind in reports]
    return SampleTable.concat(tables), PartReport(part, fragment, tuple(reports))


def grid_table(
    fragment_name: str,
    rects: Sequence[Rect],
    label: Plane | None,
    papyrus: Plane,
    supervised: Plane,
    *,
    validation: Plane | None = None,
    tile: int,
    stride: int,
    min_papyrus: float = 0.5,
) -> SampleTable:
    """Tiles at every `stride` px of each rectangle, the last row and column flush with its end: natural prevalence.

    Tiles that are not mostly supervised papyrus, or touch the validation mask, are left out.
    Without a label the ink ratio is NaN.
    """
    recipe = Recipe(name="grid", tile=tile, min_papyrus=min_papyrus, each=Quota(grid="all"))
    fitting = [rect for rect in rects if min(rect.height, rect.width) >= tile]
    scan = Scan(label, papyrus, supervised, validation, recipe, fitting)
    ys, xs = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for rect in scan.rects:
        rows = np.union1d(np.arange(rect.y0, rect.y1 - tile + 1, stride), rect.y1 - tile)
        columns = np.union1d(np.arange(rect.x0, rect.x1 - tile + 1, stride), rect.x1 - tile)
        ys.append(np.repeat(rows, len(columns)))
        xs.append(np.tile(columns, len(rows)))
    y, x = np.concatenate(ys), np.concatenate(xs)
    ink, counted = scan.counts(y, x)
    kept = counted >= scan.least
    ratio = np.full(len(y), np.nan) if label is None else scan.ratio(ink, counted)
    return SampleTable.of(fragment_name, y[kept], x[kept], ratio[kept], -1, "grid")


def edge_points(label: Plane, rect: Rect, thresholds: tuple[float, float] = (100, 200), band: int = BAND) -> np.ndarray:
    """(N,2) int64 (y,x) of the Canny edge of the ink in a rectangle, by rows; no pixel outside it is looked at.

    Bands give the edge of the whole: in a two-valued image of 0 and 255 every gradient that is not zero is at least
    255, so below that threshold no edge is weak and none has to be followed beyond the halo.
    """
    low, high = thresholds
    if high >= 255:
        band = rect.height
    points = []
    for y0 in range(rect.y0, rect.y1, band):
        top, bottom = max(y0 - HALO, rect.y0), min(y0 + band + HALO, rect.y1)
        ink = np.asarray(label[top:bottom, rect.x0 : rect.x1]) > 0
        if ink.any() and not ink.all():
            edge = cv2.Canny(ink.astype(np.uint8) * 255, low, high)
            own = edge[y0 - top : min(y0 + band, rect.y1) - top] != 0
            y, x = np.divmod(np.flatnonzero(own), rect.width)
            points.append(np.stack([y + y0, x + rect.x0], 1))
    return np.concatenate(points) if points else np.zeros((0, 2), np.int64)


def _edges(
    scan: Scan, quota: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, KindReport]:
    """Windows about edge points, moved by up to half a tile either way, levelled over the ratio buckets."""
    recipe, tile, half = scan.recipe, scan.tile, scan.tile // 2
    found, edge_px = [np.zeros((0, 2), np.int64)], 0
    for rect in scan.rects:
        assert scan.label is not None
        points = edge_points(scan.label, rect, recipe.canny)
        edge_px += len(points)
        moves = np.floor(rng.random((len(points), recipe.translations, 2)) * (2 * half + 1)).astype(np.int64) - half
        corners = (points[:, None] - half + moves).reshape(-1, 2)
        inside = (corners >= (rect.y0, rect.x0)) & (corners <= (rect.y1 - tile, rect.x1 - tile))
        found.append(corners[inside.all(1)])
    width = scan.papyrus.shape[1]
    flat = np.sort(np.concatenate(found) @ np.array([width, 1]))
    y, x = np.divmod(flat[np.diff(flat, prepend=-1) > 0], width)
    ink, counted = scan.counts(y, x)
    usable = (counted >= scan.least) & (ink > 0)
    y, x, ink, counted = y[usable], x[usable], ink[usable], counted[usable]
    bucket = np.minimum(recipe.buckets * ink // counted, recipe.buckets - 1)
    available = np.bincount(bucket, minlength=recipe.buckets)
    take = level(np.minimum(available, recipe.capacity), quota)
    order = rng.permutation(len(y))
    order = order[np.argsort(bucket[order], kind="stable")]  # by bucket, in random order within each
    rank = np.arange(len(order)) - (np.cumsum(available) - available)[bucket[order]]
    rows = np.sort(order[rank < take[bucket[order]]])
    report = KindReport(
        "edge", quota, len(rows), len(y), tuple(map(int, available)), tuple(map(int, take)), edge_px, recipe.capacity
    )
    return y[rows], x[rows], scan.ratio(ink[rows], counted[rows]), bucket[rows], report.explained()


def level(available: np.ndarray, quota: int) -> np.ndarray:
    """How many to take of each bucket: as equal as what is available allows, `quota` in all or everything there is."""
    take = np.zeros(len(available), np.int64)
    left = quota
    for done, bucket in enumerate(np.argsort(available, kind="stable")):
        take[bucket] = min(int(available[bucket]), left // (len(available) - done))
        left -= take[bucket]
    return take


def _pick(
    scan: Scan, allowed_map: Callable[[Band], np.ndarray], quota: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, int]:
    """`quota` corners drawn evenly, without repeats, from all that `allowed_map(band)` allows; the number of all."""
    packed, counts = [], []
    for band in scan.bands():
        allowed = allowed_map(band)
        counts.append(int(np.count_nonzero(allowed)))
        packed.append((band, allowed.shape, np.packbits(allowed) if counts[-1] else None))
    total = sum(counts)
    ranks = np.sort(rng.choice(total, min(quota, total), replace=False)) if total else np.zeros(0, np.int64)
    ys, xs, start = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for (band, shape, bits), count in zip(packed, counts, strict=True):
        own = ranks[(ranks >= start) & (ranks < start + count)] - start
        if bits is not None and len(own):
            flat = np.flatnonzero(np.unpackbits(bits, count=shape[0] * shape[1]))[own]
            ys.append(flat // shape[1] + band.y0)
            xs.append(flat % shape[1] + band.rect.x0)
        start += count
    return np.concatenate(ys), np.concatenate(xs), total

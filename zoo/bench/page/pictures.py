"""The pictures of the page: for each test region a CT layer, the label and every configuration's map, reduced.

Each is a data URI, so that the page is one file. Memory does not grow with a fragment: it is read in bands.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_recipes.fragment import Fragment
from data_recipes.regions import Rect
from zoo.bench.leaderboard import Row
from zoo.bench.result import Result
from zoo.bench.score import bounding, map_name
from zoo.bench.shown import marked

SIDE = 700  # px; the longer side of a picture
FULL_SIZE = 60  # pictures; when there are more, each gets smaller, so that the page does not grow on and on
_LEAST_SIDE = 160
_BAND = 2**22  # px read at once, about

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Picture:
    """One picture of a region. `key` is unique in it: `layer`, `label` or `map CONFIGURATION`."""

    key: str
    title: str
    note: str
    uri: str


@dataclass(frozen=True)
class Region:
    """A test region with its pictures, all of `width` × `height` px; `outline` says where it lies in its fragment."""

    key: str
    name: str
    outline: str
    width: int
    height: int
    pictures: tuple[Picture, ...]


def regions(
    results: Sequence[Result], fragments: Mapping[str, Fragment], out: Path, rows: Sequence[Row]
) -> list[Region]:
    """Every test region, with the map of each configuration's first seed that left one in `out`.

    Maps stand in the order of `rows`, floors last, without those of turned labels; a title says ✗ where the row fails a
    control.
    """
    results = [result for result in results if not result.spec.labels_turned]
    order = {row.label: (row.floor, number) for number, row in enumerate(rows)}
    titles = {row.label: marked(row, row.label) for row in rows}
    chosen: dict[tuple[str, str], dict[str, Result]] = {}
    for result in sorted(results, key=lambda result: order[result.spec.label]):
        if result.status == "ok":
            for name in result.spec.test_rects:
                if _map(out, result, name).is_file():
                    chosen.setdefault((result.spec.fold, name), {}).setdefault(result.spec.label, result)
    pictures = sum(len(runs) + 2 for runs in chosen.values())  # each region's layer and label with them
    side = max(_LEAST_SIDE, round(SIDE * min(1.0, math.sqrt(FULL_SIZE / max(pictures, 1)))))
    return [_region(fold, name, runs, titles, fragments.get(name), out, side) for (fold, name), runs in chosen.items()]


def _map(out: Path, result: Result, fragment: str) -> Path:
    return out / "runs" / result.run_id / map_name(fragment)


def _region(
    fold: str,
    name: str,
    runs: Mapping[str, Result],
    titles: Mapping[str, str],
    fragment: Fragment | None,
    out: Path,
    side: int,
) -> Region:
    rects = [Rect(*rect) for rect in next(iter(runs.values())).spec.test_rects[name]]
    outline = bounding(rects)
    step = max(1, math.ceil(max(outline.height, outline.width) / side))

    def reduced(read: Callable[[Rect], NDArray[Any]]) -> Plane:
        return _reduced(read, outline, step)

    def scored(rect: Rect) -> NDArray[np.float32]:
        """1 where the region is tested and there is papyrus: what is said elsewhere is neither trained nor counted."""
        inside = np.zeros((rect.height, rect.width), np.float32)
        for part in (cut.shift(-rect.y0, -rect.x0) for own in rects if (cut := own.intersect(rect))):
            inside[part.slices] = 1
        return inside if fragment is None else inside * fragment.papyrus[rect.slices]

    pictures: list[Picture] = []
    if fragment is not None and fragment.volume is not None:
        z = min(max(fragment.center_layer, 0), fragment.depth - 1)
        layer = reduced(lambda rect: fragment.read(*rect, z, z + 1)[0])
        pictures.append(Picture("layer", f"CT layer {z}", "", _grey(layer, np.ones(layer.shape, bool), (1, 99))))
    share = reduced(scored)
    if fragment is not None and (truth := fragment.label) is not None:
        supervised = fragment.supervised
        counted = reduced(lambda rect: scored(rect) * supervised[rect.slices]) >= 0.5
        ink = reduced(lambda rect: truth[rect.slices] > 0) >= 0.5
        note = "" if counted.all() else "blank: not counted"
        pictures.append(Picture("label", "label", note, _label(ink, counted)))
    for label, result in runs.items():
        saved = np.load(_map(out, result, name), mmap_mode="r", allow_pickle=False)
        prob = reduced(
            lambda rect, saved=saved: (
                saved[rect.shift(-outline.y0, -outline.x0).slices].astype(np.float32) * scored(rect)
            )
        )
        prob = np.divide(prob, share, out=np.zeros_like(prob), where=share > 0)
        scores = result.per_fragment.get(name) or result.quality
        said = [
            f"{word} {value:.3f}"
            for word, key in (("Dice", "dice"), ("AUC", "auc"))
            if (value := scores.get(key)) is not None
        ]
        said.append(f"seed {result.spec.seed}")
        # Maps differ in calibration; each is drawn from its own 2nd to 99.5th percentile, so that shapes compare.
        pictures.append(Picture(f"map {label}", titles[label], ", ".join(said), _grey(prob, share >= 0.5, (2, 99.5))))
    where = f"rows {outline.y0}–{outline.y1 - 1}, columns {outline.x0}–{outline.x1 - 1}, fold {fold}"
    height, width = share.shape
    return Region(f"{fold}/{name}", name, where, width, height, tuple(pictures))


def _reduced(read: Callable[[Rect], NDArray[Any]], outline: Rect, step: int) -> Plane:
    """Means over blocks of `step` × `step` px of what `read` gives, (⌈H/step⌉, ⌈W/step⌉); the last ones may be cut."""
    columns = np.arange(0, outline.width, step)
    rows = step * max(1, _BAND // (step * outline.width))
    parts = []
    for top in range(outline.y0, outline.y1, rows):
        rect = Rect(top, min(top + rows, outline.y1), outline.x0, outline.x1)
        own = np.arange(0, rect.height, step)
        sums = np.add.reduceat(np.add.reduceat(np.asarray(read(rect), np.float32), own, axis=0), columns, axis=1)
        parts.append(sums / np.outer(_widths(own, rect.height), _widths(columns, rect.width)))
    return np.concatenate(parts).astype(np.float32)


def _widths(starts: NDArray[np.int64], end: int) -> NDArray[np.int64]:
    return np.diff(np.append(starts, end))


def _grey(image: Plane, shown: NDArray[np.bool_], percentiles: tuple[float, float]) -> str:
    """WebP of 8 bits between two percentiles of what is shown; the rest is transparent."""
    low, high = np.percentile(image[shown], percentiles) if shown.any() else (0.0, 1.0)
    low, high = (low, high) if high - low > 1e-3 else (0.0, max(1.0, float(high)))
    grey = Image.fromarray((255 * np.clip((image - low) / (high - low), 0, 1)).astype(np.uint8))
    if shown.all():
        return _uri(grey.convert("RGB"), "webp", quality=82, method=4)
    alpha = Image.fromarray(shown.astype(np.uint8) * 255)
    return _uri(Image.merge("LA", (grey, alpha)).convert("RGBA"), "webp", quality=82, method=4)


def _label(ink: NDArray[np.bool_], counted: NDArray[np.bool_]) -> str:
    """PNG of one bit, ink white; of two, the third value transparent, where not every pixel counts."""
    values = Image.fromarray(np.where(counted, ink.astype(np.uint8), 2).astype(np.uint8))
    values.putpalette([0, 0, 0, 255, 255, 255, 128, 128, 128])
    if counted.all():
        return _uri(values, "png", bits=1, optimize=True)
    return _uri(values, "png", bits=2, transparency=2, optimize=True)


def decoded(uri: str) -> np.ma.MaskedArray[Any, Any]:
    """A picture's uint8 greys (H, W), masked where it is transparent."""
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        grey, alpha = image.convert("RGBA").convert("LA").split()
    return np.ma.masked_array(np.asarray(grey), np.asarray(alpha) == 0)


def _uri(image: Image.Image, kind: str, **how: Any) -> str:
    stream = io.BytesIO()
    image.save(stream, format=kind, **how)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"

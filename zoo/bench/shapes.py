"""What of a map's quality hangs on the shape of its ink, and how far two labels of one fragment agree.

Counted by `zoo.evaluate`, in squares: memory does not grow with the fragment.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_recipes.formats.arrays import LazyArray
from data_recipes.fragment import Fragment
from data_recipes.regions import Rect
from zoo.document_metrics import DocumentCounts
from zoo.evaluate.score import Counted, evaluate
from zoo.ink_map import InkMap
from zoo.metrics import InkHistogram
from zoo.surface_dice import SurfaceCounts


@dataclass(frozen=True)
class Shapes:
    """Sums over what counts; those of several fragments add up."""

    strokes: DocumentCounts = field(default_factory=DocumentCounts)
    surface: SurfaceCounts = field(default_factory=SurfaceCounts)

    def __add__(self, other: Shapes) -> Shapes:
        return Shapes(self.strokes + other.strokes, self.surface + other.surface)

    def quality(self) -> dict[str, float]:
        return {
            "surface_dice": self.surface.dice(),
            "pseudo_f": self.strokes.pseudo_f(),
            "centre_line_recall": self.strokes.centre_line_recall(),
        }

    def agreement(self) -> dict[str, float]:
        """Of one label as if it were a map of the other."""
        at = self.strokes.confusion
        return {
            "dice": at.fbeta(1),
            "f05": at.fbeta(0.5),
            "accuracy": at.accuracy(),
            "surface_dice": self.surface.dice(),
        }


class InkPlane(LazyArray):
    """(H, W) of a fragment, uint8: 1 where a map called it ink, 0 elsewhere; only the part `at` is kept."""

    def __init__(self, kept: NDArray[np.uint8], at: Rect, shape: tuple[int, int]):
        self._kept, self._at, self.shape, self.dtype = kept, at, shape, np.dtype(np.uint8)

    def mark(self, rect: Rect, ink: NDArray[np.bool_]) -> None:
        """Set the pixels of `rect`, which lies in the part that is kept; `ink` is (height, width) of it."""
        self._kept[rect.shift(-self._at.y0, -self._at.x0).slices] = ink

    def _read(self, box: tuple[slice, ...]) -> NDArray[np.uint8]:
        rows, columns = box
        wanted = Rect(rows.start, rows.stop, columns.start, columns.stop)
        out = np.zeros((wanted.height, wanted.width), np.uint8)
        if cut := wanted.intersect(self._at):
            out[cut.shift(-wanted.y0, -wanted.x0).slices] = self._kept[cut.shift(-self._at.y0, -self._at.x0).slices]
        return out[:: rows.step, :: columns.step]


@contextmanager
def ink_plane(folder: Path, at: Rect, shape: tuple[int, int]) -> Iterator[InkPlane]:
    """A plane on the disk, in a file of `folder` that is gone afterwards, however that comes.

    The maps that stay are of 16 bits, too coarse for thresholds near 1.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        yield InkPlane(np.memmap(file, np.uint8, "w+", shape=(at.height, at.width)), at, shape)


def shapes_of(plane: LazyArray, fragment: Fragment, rects: Sequence[Rect]) -> Shapes:
    """Score a plane (H, W) that is above 0 where there is ink, on the supervised papyrus of the rectangles."""
    ink_map = InkMap(Path(fragment.name), plane, 1)
    # probabilities are counted elsewhere
    found = evaluate(ink_map, Counted(fragment, tuple(rects)), 0.5, histogram=InkHistogram())
    return Shapes(found.counts, found.surface)


def label_agreement(fragment: Fragment, rects: Sequence[Rect]) -> Shapes | None:
    """The fragment's second label as if it were a map, where there is one.

    Counted is what counts for a map: a supervision mask that leaves out what the two disagree on leaves an agreement
    of 1, which says nothing.
    """
    return None if fragment.other_label is None else shapes_of(fragment.other_label, fragment, rects)

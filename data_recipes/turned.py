"""A fragment whose label field is turned by 180° over layers that stay: what a model still scores on it, it did not
read off the layers."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from data_recipes.formats.arrays import LazyArray
from data_recipes.fragment import Fragment


def labels_turned(fragment: Fragment) -> Fragment:
    """The fragment with its label, and where that counts, turned by 180° as a whole; layers and papyrus stay."""
    parts = {field.name: getattr(fragment, field.name) for field in fields(Fragment) if field.init}
    parts["label"] = None if fragment.label is None else _Turned(fragment.label)
    parts["supervised"] = _Turned(fragment.supervised)
    parts["other_label"] = None
    return _LabelsTurned(**parts, _own=fragment)


@dataclass(eq=False)
class _LabelsTurned(Fragment):
    _own: Fragment | None = None

    def __reduce__(self):  # a worker process opens the fragment anew, and must turn its labels again
        return labels_turned, (self._own,)


class _Turned(LazyArray):
    """A plane, read from its other end along both axes."""

    def __init__(self, plane: LazyArray):
        self._plane, self.shape, self.dtype = plane, plane.shape, plane.dtype

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        there = []
        for part, size in zip(box, self.shape, strict=True):
            last = range(part.start, part.stop, part.step)[-1]
            there.append(slice(size - 1 - last, size - part.start, part.step))
        return self._plane[tuple(there)][::-1, ::-1]

"""A fragment at another voxel size: the same interface, resampled where it is read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from data_recipes.formats.arrays import LazyArray
from data_recipes.fragment import Fragment


def resampled(fragment: Fragment, factor: float) -> Fragment:
    """The fragment with `factor` times as many voxels along every axis, sliced as lazily.

    Layers are interpolated linearly, and averaged over a voxel's width where they shrink; masks and labels take the
    nearest pixel. The first and last voxel keep their outer faces, so that a map laid over the fragment's fits it.

    Raises:
        ValueError: a factor that leaves nothing.
    """
    sides = fragment.shape if fragment.volume is None else fragment.volume.shape
    if factor <= 0 or min(round(side * factor) for side in sides) < 1:
        raise ValueError(f"{fragment.name}: cannot be resampled by {factor:.3g}: nothing of it would be left")
    return replace(
        fragment,
        volume=None if fragment.volume is None else _Volume(fragment.volume, factor),
        papyrus=_Plane(fragment.papyrus, factor),
        label=None if fragment.label is None else _Plane(fragment.label, factor),
        other_label=None if fragment.other_label is None else _Plane(fragment.other_label, factor),
        supervised=_Plane(fragment.supervised, factor),
        validation=None if fragment.validation is None else _Plane(fragment.validation, factor),
        voxel_um=None if fragment.voxel_um is None else fragment.voxel_um / factor,
        center_layer=max(min(int((fragment.center_layer + 0.5) * factor), round(fragment.depth * factor) - 1), 0),
        notes=[*fragment.notes, f"resampled to {factor:.3f} voxels a voxel"],
    )


class _Volume(LazyArray):
    def __init__(self, stored: LazyArray, factor: float):
        self._stored, self._factor, self.dtype = stored, factor, stored.dtype
        self.shape = tuple(round(side * factor) for side in stored.shape)

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        spans = [
            _taps(range(s.start, s.stop, s.step), size, self._factor)
            for s, size in zip(box, self._stored.shape, strict=True)
        ]
        values = self._stored[tuple(slice(first, first + weights.shape[1]) for first, weights in spans)].astype(
            np.float32
        )
        for axis, (_, weights) in enumerate(spans):
            # summed tap by tap, not as a matrix product, whose order of summing changes with the size of what is read
            values = _weighted(values, weights, axis)
        return np.rint(values).astype(self.dtype)


def _weighted(values: NDArray[np.float32], weights: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Sums of `values` along `axis` by each row of `weights`, of which few are not 0 and lie side by side."""
    first = (weights > 0).argmax(1)
    taps = int((weights > 0).sum(1).max())
    reach = [np.minimum(first + tap, weights.shape[1] - 1) for tap in range(taps)]
    shape = [-1 if at == axis else 1 for at in range(values.ndim)]
    rows = np.arange(len(weights))
    total = np.zeros((), np.float32)
    for tap, at in enumerate(reach):
        weight = np.where(first + tap < weights.shape[1], weights[rows, at], 0).astype(np.float32)
        total = total + values.take(at, axis) * weight.reshape(shape)
    return total


def _taps(wanted: range, size: int, factor: float) -> tuple[int, NDArray[np.float32]]:
    """First stored voxel that is needed, and (wanted, needed) weights: a triangle of a wanted voxel's width or more."""
    centre = (np.array(wanted) + 0.5) / factor - 0.5
    reach = max(1.0, 1 / factor)
    first, last = max(int(np.floor(centre[0] - reach)), 0), min(int(np.ceil(centre[-1] + reach)), size - 1)
    first, last = min(first, size - 1), max(last, 0)
    stored = np.arange(first, last + 1)
    weights = np.maximum(1 - np.abs(stored[None] - np.clip(centre, 0, size - 1)[:, None]) / reach, 0)
    return first, (weights / weights.sum(1, keepdims=True)).astype(np.float32)


class _Plane(LazyArray):
    def __init__(self, stored: LazyArray, factor: float):
        self._stored, self._factor, self.dtype = stored, factor, stored.dtype
        self.shape = tuple(round(side * factor) for side in stored.shape)

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        def near(wanted: slice, size: int) -> NDArray[np.intp]:
            centres = (np.arange(wanted.start, wanted.stop, wanted.step) + 0.5) / self._factor
            return np.minimum(centres.astype(np.intp), size - 1)

        rows, columns = (near(s, size) for s, size in zip(box, self._stored.shape, strict=True))
        block = self._stored[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return block[np.ix_(rows - rows[0], columns - columns[0])]

"""A resampled fragment is the fragment at another voxel size, whatever part of it is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_recipes.fragment import Fragment
from data_recipes.resample import resampled
from tests.zoo.segments import write_mask, write_segment


@pytest.fixture
def fragment(tmp_path: Path) -> Fragment:
    mask = np.zeros((40, 50), bool)
    mask[:, :25] = True
    return write_mask(write_segment(tmp_path / "s", 40, 50, depth=9), mask)


@pytest.mark.parametrize("factor", [0.41, 0.5, 0.97, 1.3, 2.0])
def test_a_part_is_the_same_part_of_the_whole_bit_for_bit(fragment: Fragment, factor: float) -> None:
    other = resampled(fragment, factor)
    assert other.volume is not None
    whole = other.volume[...]
    assert whole.shape == other.volume.shape == tuple(round(side * factor) for side in (9, 40, 50))
    assert whole.dtype == np.uint8
    random = np.random.default_rng(0)
    for _ in range(20):
        low = [int(random.integers(0, side)) for side in whole.shape]
        high = [int(random.integers(at + 1, side + 1)) for at, side in zip(low, whole.shape, strict=True)]
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        assert np.array_equal(other.volume[box], whole[box])
        assert np.array_equal(other.papyrus[box[1:]], other.papyrus[...][box[1:]])


def test_a_factor_of_one_changes_nothing(fragment: Fragment) -> None:
    assert fragment.volume is not None
    assert np.array_equal(resampled(fragment, 1.0).volume[...], fragment.volume[...])  # pyright: ignore[reportOptionalSubscript]


def test_a_ramp_stays_the_ramp_at_the_new_centres_of_voxels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = np.broadcast_to(np.arange(0, 250, 5, dtype=np.uint8), (5, 40, 50))
    fragment = write_segment(tmp_path, 40, 50)
    monkeypatch.setattr(type(fragment.volume), "_read", lambda self, box: ramp[box].copy())
    for factor in (0.5, 2.0):
        found = resampled(fragment, factor).volume[1, 3]  # pyright: ignore[reportOptionalSubscript]
        centres = (np.arange(len(found)) + 0.5) / factor - 0.5
        inside = (centres > 2) & (centres < 47)
        np.testing.assert_allclose(found[inside], 5 * centres[inside], atol=0.51)


def test_what_shrinks_is_averaged_not_picked(fragment: Fragment) -> None:
    stored, half = fragment.volume[...], resampled(fragment, 0.5).volume[...]  # pyright: ignore[reportOptionalSubscript]
    assert half.std() < 0.5 * stored.std()
    assert abs(float(half.mean()) - float(stored.mean())) < 2


def test_a_second_label_follows_the_first(fragment: Fragment) -> None:
    label = fragment.papyrus[...].astype(np.uint8)
    two = replace(fragment, label=label, other_label=1 - label)  # pyright: ignore[reportArgumentType]
    half = resampled(two, 0.5)
    assert half.label is not None and half.other_label is not None
    assert np.array_equal(half.other_label[...], 1 - half.label[...])


def test_planes_and_facts_follow(fragment: Fragment) -> None:
    double = resampled(fragment, 2.0)
    assert double.shape == (80, 100)
    assert double.voxel_um == pytest.approx(7.91 / 2)
    assert double.papyrus[:, :50].all()
    assert not double.papyrus[:, 50:].any()
    assert double.center_layer in (2 * fragment.center_layer, 2 * fragment.center_layer + 1)
    with pytest.raises(ValueError, match="nothing of it would be left"):
        resampled(fragment, 0.01)

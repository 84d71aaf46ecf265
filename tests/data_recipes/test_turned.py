"""Labels turned by 180° over layers that stay."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from data_recipes.formats.arrays import LazyArray
from data_recipes.fragment import Fragment, open_fragment
from data_recipes.turned import labels_turned


@pytest.fixture(scope="module")
def fragment() -> Fragment:
    return open_fragment("phantom:dipole:1:128x160")


def test_label_and_supervision_turn_and_layers_and_papyrus_stay(fragment: Fragment) -> None:
    turned = labels_turned(fragment)
    for name in ("label", "supervised"):
        own, other = (np.asarray(getattr(one, name)[:]) for one in (fragment, turned))
        np.testing.assert_array_equal(other, own[::-1, ::-1])
    np.testing.assert_array_equal(turned.papyrus[:], fragment.papyrus[:])
    np.testing.assert_array_equal(turned.read(3, 9, 5, 20, 0, 4), fragment.read(3, 9, 5, 20, 0, 4))
    assert turned.name == fragment.name


@pytest.mark.parametrize("box", [np.s_[3:40, 7:9], np.s_[0:128:5, 1:160:7], np.s_[5, 2:4], np.s_[:, -1], np.s_[9:9, :]])
def test_any_slice_is_the_slice_of_the_turned_plane(fragment: Fragment, box: tuple) -> None:
    assert isinstance(fragment.label, LazyArray)
    whole = np.asarray(fragment.label[:])[::-1, ::-1]
    turned = labels_turned(fragment).label
    assert turned is not None
    np.testing.assert_array_equal(turned[box], whole[box])


def test_a_worker_process_gets_turned_labels_too(fragment: Fragment) -> None:
    turned = labels_turned(fragment)
    again = pickle.loads(pickle.dumps(turned))
    np.testing.assert_array_equal(again.label[:], turned.label[:])


def test_labels_that_are_not_there_stay_away(tmp_path: Path, fragment: Fragment) -> None:
    from dataclasses import replace

    assert labels_turned(replace(fragment, label=None)).label is None

"""From a split as written to folds: what is left out is named, and every calibration strip can set a threshold."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from data_recipes.regions import Rect
from data_recipes.split_spec import SplitSpec, build_folds

BOTH = {"kind": "rects", "train": {"a": [[0, 100, 0, 600]]}, "test": {"a": [[0, 100, 640, 1000]]}}


class Watched:
    """A plane that notes which columns were read."""

    def __init__(self, plane):
        self.plane, self.last = plane, 0

    def __getitem__(self, index):
        self.last = max(self.last, index[1].stop)
        return self.plane[index]


def fragment(label, name="a", supervised=None):
    whole = np.ones((100, 1000), bool)
    supervised = whole if supervised is None else supervised
    shape = whole.shape
    return SimpleNamespace(name=name, shape=shape, label=label, papyrus=whole, supervised=supervised)


def lines(*columns):
    """Rows of ink in the given column ranges."""
    label = np.zeros((100, 1000), np.uint8)
    for x0, x1 in columns:
        label[20:60, x0:x1] = 1
    return label


def strips(planes, seeds, **changed):
    split = SplitSpec.model_validate({**BOTH, **changed})
    made = [build_folds(split, {"a": planes}, buffer=20, seed=seed) for seed in seeds]
    return [fold.calibration["a"] for ((fold),) in made]


def test_the_strip_rotates_over_those_with_ink_and_blank_papyrus():
    chosen = strips(fragment(lines((120, 180), (420, 480))), range(6))
    assert {strip for (strip,) in chosen} == {Rect(0, 100, 100, 200), Rect(0, 100, 400, 500)}
    everywhere = strips(fragment(lines((0, 1000))), range(6))
    assert len(set(everywhere)) == 6


def test_unsupervised_ink_does_not_count():
    supervised = np.ones((100, 1000), bool)
    supervised[:, :200] = False
    chosen = strips(fragment(lines((0, 180), (420, 480)), supervised=supervised), range(6))
    assert {strip for (strip,) in chosen} == {Rect(0, 100, 400, 500)}


def test_the_label_of_the_test_side_is_never_read():
    label = Watched(lines((0, 1000)))
    strips(fragment(label), range(6))
    assert label.last == 600


@pytest.mark.parametrize(("value", "missing"), [(0, "ink is missing"), (1, "blank papyrus is missing")])
def test_a_training_side_that_cannot_set_a_threshold_is_refused(value, missing):
    label = lines((640, 1000))
    label[:, :640] = value
    with pytest.raises(ValueError, match=f"fold test: no calibration strip of a .*{missing}"):
        strips(fragment(label), [0])


def test_blank_papyrus_may_come_from_another_fragment_than_the_ink():
    fragments = {"ink": fragment(np.ones((100, 1000), np.uint8), "ink"), "blank": fragment(lines(), "blank")}
    fragments["c"] = fragment(lines((0, 500)), "c")
    split = SplitSpec(kind="fragments", train=["ink", "blank"], test=["c"])
    (fold,) = build_folds(split, fragments, buffer=20, seed=0)
    assert set(fold.calibration) == {"ink", "blank"}


def test_fragments_without_a_label_are_left_out_by_name():
    fragments = {name: fragment(lines((0, 1000)), name) for name in "abc"} | {"d": fragment(None, "d")}
    folds = build_folds(SplitSpec(), fragments, buffer=20, seed=0)
    assert [fold.name for fold in folds] == ["a", "b", "c"]
    assert all(fold.left_out == ("d",) and fold.as_dict()["left_out"] == ["d"] for fold in folds)
    assert build_folds(SplitSpec(), {"a": fragments["a"]}, buffer=20, seed=0)[0].left_out == ()
    with pytest.raises(ValueError, match="'d', which has no ink label"):
        build_folds(SplitSpec(kind="fragments", train=["a"], test=["d"]), fragments, buffer=20, seed=0)
    with pytest.raises(ValueError, match="none of d has an ink label"):
        build_folds(SplitSpec(), {"d": fragments["d"]}, buffer=20, seed=0)


def test_one_fragment_is_split_in_blocks():
    folds = build_folds(SplitSpec(parts=3), {"a": fragment(lines((0, 1000)))}, buffer=20, seed=0)
    assert [fold.name for fold in folds] == ["a-columns-1of3", "a-columns-2of3", "a-columns-3of3"]


def test_test_rectangles_that_overlap_are_refused():
    with pytest.raises(ValueError, match=r"\(0, 100, 640, 900\) and \(50, 100, 800, 1000\) overlap"):
        strips(fragment(lines((0, 1000))), [0], test={"a": [[0, 100, 640, 900], [50, 100, 800, 1000]]})


def test_a_split_names_what_it_needs():
    with pytest.raises(ValueError, match="split kind rects needs train and test, each rectangles by fragment name"):
        SplitSpec.model_validate({**BOTH, "train": ["a"]})
    with pytest.raises(ValueError, match="names fragment 'b'; the data has a"):
        strips(fragment(lines()), [0], train={"b": [[0, 1, 0, 1]]})


def few(shots, seed=0, planes=None, **changed):
    split = SplitSpec.model_validate({**BOTH, "shots": shots, "shot_px": 30, **changed})
    planes = {"a": fragment(lines((0, 90), (150, 210), (260, 300), (400, 600)))} if planes is None else planes
    (fold,) = build_folds(split, planes, buffer=20, seed=seed)
    return fold


@pytest.mark.parametrize("seed", range(4))
def test_shots_are_squares_with_ink_and_papyrus_away_from_what_is_held_out(seed):
    label = lines((0, 90), (150, 210), (260, 300), (400, 600))
    fold, everything = few(3, seed), few(None, seed)
    assert (fold.test, fold.calibration) == (everything.test, everything.calibration)
    assert len(set(fold.train["a"])) == 3
    for square in fold.train["a"]:
        assert (square.height, square.width) == (30, 30)
        assert 0 < label[square.slices].sum() < 900
        assert any(side.intersect(square) == square for side in everything.train["a"])
        assert not any(strip.grow(20).intersect(square) for strip in (*fold.calibration["a"], *fold.test["a"]))


def test_shots_are_nested_and_drawn_from_the_seed():
    drawn = [few(shots).train["a"] for shots in (1, 2, 4)]
    assert set(drawn[0]) < set(drawn[1]) < set(drawn[2])
    assert few(4).train == few(4).train
    assert len({few(1, seed).train["a"] for seed in (0, 6, 12, 18)}) > 1  # one strip, several draws


def test_shots_come_from_all_training_fragments():
    planes = {name: fragment(lines((0, 1000)), name) for name in "abc"}
    named = {"kind": "fragments", "train": ["a", "b"], "test": ["c"]}
    assert {name for seed in range(8) for name in few(1, seed, planes, **named).train} == {"a", "b"}
    fold = few(1, 0, planes, **named)
    assert len(fold.train) == 1
    assert set(fold.calibration) == {"a", "b"}


def test_more_shots_than_squares_is_said():
    with pytest.raises(
        ValueError, match=r"has \d squares of 90 px with ink and blank papyrus, 50 shots were asked for"
    ):
        few(50, shot_px=90)


def test_named_fragments_set_the_threshold_whole():
    planes = {name: fragment(lines((0, 500)), name) for name in "abc"}
    named = {"kind": "fragments", "train": ["a"], "calibration": ["b"], "test": ["c"]}
    (fold,) = build_folds(SplitSpec.model_validate(named), planes, buffer=800, seed=0)  # no room for strips
    plane = (Rect(0, 100, 0, 1000),)
    assert (fold.train, fold.calibration, fold.test) == ({"a": plane}, {"b": plane}, {"c": plane})
    with pytest.raises(ValueError, match="names fragment 'd'; the data has a, b, c"):
        build_folds(SplitSpec.model_validate({**named, "calibration": ["d"]}), planes, buffer=0, seed=0)
    with pytest.raises(ValueError, match="of b holds .*ink is missing"):
        build_folds(SplitSpec.model_validate(named), {**planes, "b": fragment(lines(), "b")}, buffer=0, seed=0)
    with pytest.raises(ValueError, match="names a for two of train, calibration and test"):
        SplitSpec.model_validate({**named, "calibration": ["a"]})
    with pytest.raises(ValueError, match="this one is auto"):
        SplitSpec.model_validate({"calibration": ["a"]})

"""Splits: nothing of what is held out, nor its buffer, is ever trained on, and the leak report counts exactly."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data_recipes.recipe import Quota, Recipe, list_recipes, load_recipe
from data_recipes.regions import Rect
from data_recipes.sampling import build_table
from data_recipes.split import Fold, blocks, explicit, leak_report, leave_one_out
from data_recipes.table import SampleTable


def fragment(name="a", shape=(600, 400)):
    return SimpleNamespace(name=name, shape=shape)


def painted(region, shape, grow=0):
    out = np.zeros(shape, bool)
    for rects in region.values():
        for rect in rects:
            grown = rect.grow(grow)
            out[max(grown.y0, 0) : max(grown.y1, 0), max(grown.x0, 0) : max(grown.x1, 0)] = True
    return out


def assert_sound(fold: Fold, shape, name="a"):
    only = [{name: region.get(name, ())} for region in (fold.train, fold.calibration, fold.test)]
    train, _, test = (painted(region, shape) for region in only)
    assert not (train & painted(only[2], shape, fold.buffer)).any()
    assert not (train & painted(only[1], shape, fold.buffer)).any()
    assert not (painted(only[1], shape, fold.buffer) & test).any()
    assert sum(rect.area for rect in fold.train.get(name, ())) == train.sum()


def test_one_fragment_is_held_out_at_a_time():
    fragments = {name: fragment(name) for name in "abc"}
    made = leave_one_out(fragments, buffer=64)
    assert [fold.name for fold in made] == ["a", "b", "c"]
    for fold in made:
        assert fold.test == {fold.name: (Rect(0, 600, 0, 400),)}
        assert set(fold.train) == set(fold.calibration) == set("abc") - {fold.name}
        for name in fold.train:
            assert_sound(fold, (600, 400), name)
    with pytest.raises(ValueError, match="at least two fragments, got 1"):
        leave_one_out({"a": fragment()}, buffer=64)


@pytest.mark.parametrize("shape", [(600, 400), (400, 600)])
def test_blocks_run_along_the_longer_axis_and_are_each_held_out(shape):
    made = blocks(fragment(shape=shape), parts=3, buffer=32)
    assert len(made) == 3
    together = sum(painted(fold.test, shape).astype(int) for fold in made)
    assert (together == 1).all()
    for fold in made:
        test = fold.test["a"][0]
        assert (test.width == shape[1]) == (shape[0] > shape[1])
        assert_sound(fold, shape)


def test_calibration_costs_least_first_and_rotates_over_every_strip():
    def fold(index):
        return explicit({"a": [(0, 100, 0, 1200)]}, {"a": [(0, 100, 1296, 2000)]}, buffer=96, calibration_index=index)

    assert fold(0).calibration == {"a": (Rect(0, 100, 0, 240),)}
    assert fold(0).train == {"a": (Rect(0, 100, 336, 1200),)}
    assert fold(1).calibration == {"a": (Rect(0, 100, 960, 1200),)}
    strips = [fold(index).calibration["a"][0] for index in range(5)]
    assert len(set(strips)) == 5
    assert sum(strip.area for strip in strips) == 100 * 1200
    assert fold(5) == fold(0)


def test_explicit_rectangles_are_kept_where_they_keep_their_distance():
    train = {"a": [(0, 608, 0, 2000), (1552, 2000, 0, 2000)]}
    fold = explicit(train, {"a": [(704, 1456, 0, 2000)]}, buffer=96, name="rows")
    assert fold.calibration == {"a": (Rect(0, 608, 0, 400), Rect(1552, 2000, 0, 400))}
    assert fold.train == {"a": (Rect(0, 608, 496, 2000), Rect(1552, 2000, 496, 2000))}
    wider = explicit(train, {"a": [(704, 1456, 0, 2000)]}, buffer=128)
    assert max(rect.y1 for rect in wider.train["a"] if rect.y0 == 0) == 704 - 128


def test_a_buffer_that_leaves_no_room_is_an_error():
    with pytest.raises(ValueError, match=r"no room for training and calibration beside a buffer of 256 px"):
        blocks(fragment(shape=(600, 400)), buffer=256)
    with pytest.raises(ValueError, match="at least 2 blocks, got 1"):
        blocks(fragment(), parts=1, buffer=8)
    with pytest.raises(ValueError, match=r"rectangle \(5, 5, 0, 9\) is empty"):
        explicit({"a": [(5, 5, 0, 9)]}, {"a": [(50, 60, 0, 9)]}, buffer=1)
    with pytest.raises(ValueError, match="along rows, columns or auto, got 'diagonal'"):
        blocks(fragment(), axis="diagonal", buffer=8)


def test_a_split_written_for_another_fragment_is_an_error():
    inside = {"a": [(0, 300, 0, 400)]}
    for test, message in (
        ({"a": [(400, 601, 0, 400)]}, r"rectangle \(400, 601, 0, 400\) of a, which has 600×400 px"),
        ({"b": [(0, 10, 0, 10)]}, "names fragment 'b', the data given are a"),
    ):
        with pytest.raises(ValueError, match=message):
            explicit(inside, test, buffer=8, fragments={"a": fragment()})
    fold = explicit(inside, {"a": [(400, 600, 0, 400)]}, buffer=8, fragments={"a": fragment()})
    assert fold.test == {"a": (Rect(400, 600, 0, 400),)}


def rows(*corners, name="a"):
    y, x = np.array(corners).T
    return SampleTable.of(name, y, x, np.zeros(len(y)), -1, "random")


def test_the_leak_report_counts_each_pixel_once():
    fold = Fold("f", {}, {"a": (Rect(0, 40, 0, 40),)}, {"a": (Rect(100, 200, 0, 100),)}, 10)
    clean = leak_report(rows((50, 0), (60, 500), (211, 0)), 32, fold)
    assert (clean.overlap_px, clean.within_buffer_px, clean.tiles_at_fault) == (0, 0, 0)
    assert (clean.test_px, clean.calibration_px) == (10_000, 1600)
    assert clean.check() is clean
    touching = leak_report(rows((59, 0), (59, 0), (60, 4)), 32, fold)  # rows 90 and 91 lie in the buffer
    assert touching.within_buffer_px == 32 + 36
    assert touching.overlap_px == 0
    assert touching.tiles_at_fault == 3
    inside = leak_report(rows((90, 90), (95, 90)), 32, fold)
    assert inside.overlap_px == (127 - 100) * 10
    assert inside.within_buffer_px == (127 - 90) * 20 - inside.overlap_px
    with pytest.raises(ValueError, match=r"leak: 2 of 2 training tiles .* 270 px of the test region, 470 px of its 10"):
        inside.check()
    near = leak_report(rows((30, 30)), 32, fold)
    assert (near.calibration_overlap_px, near.calibration_within_buffer_px) == (100, 300)
    assert leak_report(rows((100, 0), name="b"), 32, fold).clean
    assert not near.clean


def test_what_is_held_out_has_no_say_in_which_tiles_are_chosen():
    rng = np.random.default_rng(0)
    label = np.kron(rng.random((20, 15)) < 0.3, np.ones((16, 16))).astype(np.uint8)
    recipe = Recipe(name="t", tile=24, each=Quota(edge=80, void=20, random=40, grid="all"))
    tables = []
    for held_out in (0, 1, None):
        planes = checkered(label.copy())
        fold = blocks(planes, parts=2, buffer=24)[0]
        if held_out is not None:
            planes.label[~painted(fold.train, label.shape)] = held_out
        tables.append(build_table({"a": planes}, fold.train, recipe, seed=0)[0])
    assert tables[0] == tables[1] == tables[2]


def checkered(label):
    whole = np.ones(label.shape, bool)
    return SimpleNamespace(name="a", shape=label.shape, label=label, papyrus=whole, supervised=whole, validation=None)


EVERY_KIND = Recipe(name="t", each=Quota(edge=80, void=20, random=40, grid="all"))


@settings(max_examples=40)
@given(
    st.sampled_from([EVERY_KIND, *(load_recipe(name) for name in list_recipes())]),
    st.integers(8, 40),
    st.integers(0, 24),
    st.integers(2, 4),
    st.sampled_from(["rows", "columns", "auto"]),
    st.integers(0, 6),
    st.integers(0, 3),
)
def test_no_training_tile_of_any_recipe_reaches_what_is_held_out(recipe, tile, extra, parts, axis, index, seed):
    rng = np.random.default_rng(seed)
    label = np.kron(rng.random((20, 15)) < 0.3, np.ones((16, 16))).astype(np.uint8)
    planes = checkered(label)
    try:
        made = blocks(planes, parts=parts, axis=axis, buffer=tile + extra, calibration_index=index)
    except ValueError as error:
        assume("no room" not in str(error))
        raise
    for fold in made:
        assert_sound(fold, label.shape)
        try:
            table, _ = build_table({"a": planes}, fold.train, recipe.with_(tile=tile), seed=seed)
        except ValueError as error:
            if "no ink edge" in str(error):
                continue
            raise
        report = leak_report(table, tile, fold).check()
        assert report.overlap_px == report.within_buffer_px == 0
        seen = np.zeros(label.shape, bool)
        for y, x in zip(table.y, table.x, strict=True):
            seen[y : y + tile, x : x + tile] = True
        assert not (seen & painted(fold.test, label.shape, fold.buffer)).any()
        assert not (seen & painted(fold.calibration, label.shape, fold.buffer)).any()


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 80), st.integers(0, 80)), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 60), st.integers(5, 40), st.integers(0, 60), st.integers(5, 40)), min_size=1),
    st.integers(4, 24),
    st.integers(0, 16),
)
def test_the_leak_report_equals_a_count_on_painted_masks(corners, boxes, tile, buffer):
    shape = (160, 160)
    test = {"a": tuple(Rect(y, y + h, x, x + w) for y, h, x, w in boxes)}
    report = leak_report(rows(*corners), tile, Fold("f", {}, {}, test, buffer))
    seen = np.zeros(shape, bool)
    for y, x in corners:
        seen[y : y + tile, x : x + tile] = True
    core, grown = painted(test, shape), painted(test, shape, buffer)
    assert report.overlap_px == (seen & core).sum()
    assert report.within_buffer_px == (seen & grown & ~core).sum()
    assert report.test_px == core.sum()

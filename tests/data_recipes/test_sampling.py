"""Sampling: the edge of the reference, ratio buckets, void, and a table that depends on its inputs alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_recipes import scan
from data_recipes.recipe import Part, Quota, Recipe, load_recipe
from data_recipes.regions import Rect, whole
from data_recipes.sampling import build_table, edge_points, grid_table, level, sample_part
from data_recipes.scan import Scan
from data_recipes.table import KINDS, SampleTable

GOLDEN = Path(__file__).parents[1] / "golden" / "edges.npz"


class Fragment:
    """A fragment of arrays."""

    def __init__(self, label, papyrus=None, supervised=None, validation=None):
        self.label = label
        self.shape = label.shape
        self.papyrus = np.ones(label.shape, bool) if papyrus is None else papyrus
        self.supervised = np.ones(label.shape, bool) if supervised is None else supervised
        self.validation = validation


def letters(height=700, width=500, seed=0):
    """A label of round-ended strokes, thick enough for full windows of 32 px."""
    rng = np.random.default_rng(seed)
    label = np.zeros((height, width), np.uint8)
    for _ in range(height * width // 20000):
        a, b = rng.integers(0, (width, height), (2, 2))
        cv2.line(label, a.tolist(), (a + (b - a) // 4).tolist(), 1, 40)
    return label


@pytest.fixture(scope="module")
def golden():
    stored = np.load(GOLDEN)
    planes = {name: np.unpackbits(stored[name], axis=1, count=448) for name in ("label", "edge")}
    return {**stored, **planes}


def windows(mask, table, tile):
    return np.array([mask[y : y + tile, x : x + tile].sum() for y, x in zip(table.y, table.x, strict=True)])


def test_edges_lie_within_a_pixel_of_the_reference_both_ways(golden):
    points = edge_points(golden["label"], whole(golden["label"].shape))
    ours = np.zeros_like(golden["edge"])
    ours[points[:, 0], points[:, 1]] = 1
    kernel = np.ones((3, 3), np.uint8)
    assert not (ours & ~cv2.dilate(golden["edge"], kernel) & 1).any()
    assert not (golden["edge"] & ~cv2.dilate(ours, kernel) & 1).any()
    theirs = golden["points"].astype(int)
    assert cv2.dilate(ours, kernel)[theirs[:, 0], theirs[:, 1]].all()


def test_ink_counts_and_buckets_equal_the_reference_but_at_bucket_borders(golden):
    y, x, ink, bucket = golden["buckets"].T.astype(int)
    planes = golden["label"], np.ones((512, 448), bool), np.ones((512, 448), bool)
    counted_by = Scan(*planes, None, load_recipe("edges_buckets_void"), [whole((512, 448))])
    ours, counted = counted_by.counts(y - 32, x - 32)
    assert (ours == ink).all()
    assert (counted == 4096).all()
    ours = np.minimum(10 * ours // counted, 9)
    between = (ink >= 4096 * ours / 10) & (ink < 4096 * 10 * ours / 99)  # our border k/10, theirs 10k/99
    assert (ours == bucket)[~between].all()
    assert (ours - bucket)[between].max() <= 1
    assert between.mean() < 0.1


@pytest.mark.parametrize("band", [7, 64, 333])
def test_bands_change_neither_the_edge_nor_the_table(monkeypatch, band):
    label = letters()
    papyrus = np.ones(label.shape, bool)
    papyrus[:90, 200:260] = papyrus[400:, 470:] = False
    quota = Quota(edge=300, void=100, random=100, grid="all")
    recipe = Recipe(name="t", tile=32, each=quota)
    fragment = Fragment(label, papyrus)

    def both():
        table, _ = build_table({"a": fragment}, {"a": (Rect(3, 340, 0, 500), Rect(340, 690, 5, 420))}, recipe, seed=1)
        return edge_points(label, whole(label.shape), band=scan.BAND), table

    monkeypatch.setattr(scan, "BAND", 10_000)
    points, table = both()
    monkeypatch.setattr(scan, "BAND", band)
    banded_points, banded_table = both()
    assert (points == banded_points).all()
    assert table == banded_table
    assert set(np.array(KINDS)[table.kind]) == set(KINDS)


def test_an_edge_window_is_moved_as_far_one_way_as_the_other():
    label = np.zeros((401, 401), np.uint8)
    label[200, 200] = 1
    recipe = Recipe(name="t", tile=64, translations=64, capacity=10_000, each=Quota(edge=100_000))
    table, _ = build_table({"a": Fragment(label)}, None, recipe, seed=0)
    offset = np.stack([table.y, table.x], 1) + 32 - 200
    assert 30 <= -offset.min() <= 33  # half a tile, and a pixel from the dot to its edge
    assert 30 <= offset.max() <= 33
    assert abs(offset.mean()) < 1.5


def test_ink_ratio_and_bucket_count_supervised_papyrus_only():
    label = letters()
    supervised = np.random.default_rng(1).random(label.shape) < 0.8
    recipe = Recipe(name="t", tile=32, each=Quota(edge=400, void=50))
    table, _ = build_table({"a": Fragment(label, None, supervised)}, None, recipe, seed=3)
    counted = windows(supervised, table, 32)
    ink = windows(supervised & (label > 0), table, 32)
    np.testing.assert_allclose(table.ink_ratio, ink / counted, rtol=1e-6)
    edge = table.kind == KINDS.index("edge")
    assert (table.bucket[edge] == np.minimum(10 * ink[edge] // counted[edge], 9)).all()
    assert (ink[edge] > 0).all()
    assert (table.bucket[~edge] == -1).all()


def test_buckets_are_levelled_up_to_their_capacity():
    assert level(np.array([5, 100, 100, 0]), 50).tolist() == [5, 22, 23, 0]
    assert level(np.array([5, 9]), 50).tolist() == [5, 9]
    table, report = build_table(
        {"a": Fragment(letters())}, None, Recipe(name="t", tile=32, capacity=20, each=Quota(edge=500)), seed=0
    )
    assert np.bincount(table.bucket, minlength=10).max() == 20
    assert len(table) == report.got <= 200
    assert "buckets are full at 20" in report.shortfalls[0]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(0, 300))
def test_levelling_takes_the_quota_or_everything_and_never_starves_a_bucket(available, quota):
    take = level(np.array(available), quota)
    assert take.sum() == min(quota, sum(available))
    assert all(0 <= t <= a for t, a in zip(take, available, strict=True))
    richest = take.max()
    assert all(t == a or t >= richest - 1 for t, a in zip(take, available, strict=True))


def test_void_windows_have_no_ink_and_lie_well_inside_the_papyrus_of_every_fragment():
    label, papyrus = letters(seed=2), np.zeros((700, 500), bool)
    papyrus[30:640, 20:470] = True
    fragments = {"a": Fragment(label, papyrus), "b": Fragment(letters(seed=5), papyrus)}
    table, report = build_table(fragments, None, Recipe(name="t", tile=32, each=Quota(void=200)), seed=0)
    assert not report.shortfalls
    for name, fragment in fragments.items():
        own = table[table.names == name]
        assert len(own) == 200
        assert not windows(fragment.label > 0, own, 32).any()
        assert (own.y >= 30 + 16).all()
        assert (own.y + 32 + 16 <= 640).all()
        assert (own.x >= 20 + 16).all()
        assert (own.x + 32 + 16 <= 470).all()


def test_unsupervised_ink_is_not_void():
    label = np.zeros((200, 200), np.uint8)
    label[:, :120] = 1
    supervised = np.ones((200, 200), bool)
    supervised[:, 90:120] = False
    recipe = Recipe(name="t", tile=32, each=Quota(void=50))
    table, _ = build_table({"a": Fragment(label, None, supervised)}, None, recipe, seed=0)
    assert len(table) == 50
    assert (table.x >= 120).all()


def test_the_same_input_gives_the_same_table_and_another_seed_another():
    fragments = {"a": Fragment(letters())}
    recipe = Recipe(name="t", tile=32, each=Quota(edge=200, void=50))
    first, again, other = (build_table(fragments, None, recipe, seed=seed)[0] for seed in (4, 4, 5))
    assert first == again
    assert first != other
    keys = set(zip(first.y.tolist(), first.x.tolist(), strict=True))
    assert len(keys) == len(first)


def test_a_part_is_sampled_alike_whatever_stands_beside_it():
    a, b = Fragment(letters(seed=1)), Fragment(letters(seed=2))
    recipe = Recipe(name="t", tile=32, each=Quota(edge=100, void=20))
    alone, _ = build_table({"a": a}, None, recipe, seed=0)
    beside, _ = build_table({"b": b, "a": a}, None, recipe, seed=0)
    assert beside[beside.names == "a"] == alone


def test_a_part_that_falls_short_is_reported_and_its_quota_given_to_no_other():
    label = letters()
    label[350:] = 0
    parts = {"f/top": Part(rows=(0, 0.5), edge=100, void=10), "f/bottom": Part(rows=(0.5, 1), edge=100, void=10)}
    recipe = Recipe(name="t", tile=32, parts={**parts, "g": Part(edge=7)})
    table, report = build_table({"f": Fragment(label)}, None, recipe, seed=0)
    top, bottom, absent = report.parts
    assert [kind.got for kind in top.kinds] == [100, 10]
    assert [kind.got for kind in bottom.kinds] == [0, 10]
    assert bottom.kinds[0].reason == "the label has no ink edge here"
    assert absent.short == 7
    assert any("g edge: 7 of 7 missing: fragment g is not among the data given" in line for line in report.shortfalls)
    assert len(table) == 120
    edge = table.kind == 0
    assert (table.y[edge] + 32 <= 350).all()


def test_a_label_without_ink_is_an_error_where_edges_are_asked_for():
    blank = {"blank": Fragment(np.zeros((300, 300), np.uint8))}
    with pytest.raises(ValueError, match=r"no ink edge in the label of blank.*all zero.*recipe grid or random"):
        build_table(blank, None, load_recipe("edges_buckets_void"), seed=0)
    table, _ = build_table(blank, None, load_recipe("random").with_(samples=10), seed=0)
    assert len(table) == 10


def test_a_missing_label_is_an_error():
    fragment = Fragment(np.zeros((300, 300), np.uint8))
    fragment.label = None
    with pytest.raises(ValueError, match="a: no ink label"):
        build_table({"a": fragment}, None, load_recipe("random"), seed=0)


def test_a_recipe_that_can_give_no_tile_is_an_error():
    fragment = {"mine": Fragment(letters())}
    with pytest.raises(ValueError, match=r"asks for no tile of mine: it has quotas for a/top; give `each` a quota"):
        build_table(fragment, None, Recipe(name="t", parts={"a/top": Part(edge=5)}), seed=0)
    with pytest.raises(ValueError, match=r"a tile of 512 px fits nowhere: the largest rectangle is 500 px"):
        build_table(fragment, None, load_recipe("grid").with_(tile=512), seed=0)
    with pytest.raises(ValueError, match=r"the region names 'other', which is not among the fragments: mine"):
        build_table(fragment, {"other": (Rect(0, 9, 0, 9),)}, load_recipe("grid"), seed=0)


def test_a_region_smaller_than_the_tile_gives_nothing_and_says_so():
    fragment = Fragment(letters())
    table, report = sample_part(
        fragment.label,
        fragment.papyrus,
        fragment.supervised,
        Recipe(name="t", tile=64, each=Quota(void=1)),
        seed=0,
        fragment="a",
        part="a",
        rects=[Rect(0, 63, 0, 500)],
        quota=Quota(edge=5, void=5, random=5, grid=5),
    )
    assert len(table) == 0
    assert all(kind.reason == "no rectangle of the part holds a tile of 64 px" for kind in report.kinds)


def test_a_grid_covers_every_rectangle_at_natural_prevalence():
    label = letters()
    whole_plane = np.ones(label.shape, bool)
    rects = [Rect(10, 310, 0, 205), Rect(400, 500, 100, 400)]
    table = grid_table("a", rects, label, whole_plane, whole_plane, tile=50, stride=50)
    seen = np.zeros(label.shape, bool)
    for y, x in zip(table.y, table.x, strict=True):
        seen[y : y + 50, x : x + 50] = True
    for rect in rects:
        assert seen[rect.slices].all()
    assert seen.sum() == sum(rect.area for rect in rects)
    assert (table.bucket == -1).all()
    np.testing.assert_allclose(table.ink_ratio, windows(label > 0, table, 50) / 2500, rtol=1e-6)


def test_tiles_lie_mostly_on_supervised_papyrus():
    label = letters()
    papyrus = np.zeros(label.shape, bool)
    papyrus[100:500, 100:300] = True
    recipe = Recipe(name="t", tile=32, min_papyrus=0.75, each=Quota(edge=100, random=300, grid="all"))
    table, _ = build_table({"a": Fragment(label, papyrus)}, None, recipe, seed=0)
    assert len(table) > 300
    assert (windows(papyrus, table, 32) >= 0.75 * 32**2).all()


def test_a_table_survives_csv_to_the_bit(tmp_path):
    fragments = {"a, or so": Fragment(letters()), "b": Fragment(letters(seed=3))}
    recipe = Recipe(name="t", tile=32, each=Quota(edge=50, void=10, random=5, grid=3))
    table, _ = build_table(fragments, None, recipe, seed=0)
    table.to_csv(tmp_path / "t.csv")
    back = SampleTable.from_csv(tmp_path / "t.csv")
    assert back == table
    assert back.ink_ratio.dtype == np.float32
    back.to_csv(tmp_path / "u.csv")
    assert (tmp_path / "t.csv").read_bytes() == (tmp_path / "u.csv").read_bytes()
    (tmp_path / "v.csv").write_text("fragment,y,x,ink_ratio,bucket,kind\na,1,2,.5,0,edge\na,1,x,.5,0,edge\n")
    with pytest.raises(ValueError, match=r"v.csv, line 3: .*is not a tile"):
        SampleTable.from_csv(tmp_path / "v.csv")
    (tmp_path / "w.csv").write_text("y,x\n1,2\n")
    with pytest.raises(ValueError, match="the header is 'y,x', expected 'fragment,y,x,ink_ratio,bucket,kind'"):
        SampleTable.from_csv(tmp_path / "w.csv")


def test_rows_are_chosen_by_slice_mask_or_index():
    table = grid_table("a", [Rect(0, 90, 0, 90)], None, *[np.ones((90, 90), bool)] * 2, tile=30, stride=30)
    assert len(table[:4]) == 4
    assert table[table.y == 30].x.tolist() == [0, 30, 60]
    assert table[[8, 0]].y.tolist() == [60, 0]
    assert len(table[[]]) == 0
    assert SampleTable.concat([table[:4], table[4:]]) == table
    assert len(SampleTable.concat([])) == 0


@settings(max_examples=25)
@given(
    st.integers(8, 40),
    st.lists(
        st.tuples(st.integers(0, 150), st.integers(20, 120), st.integers(0, 150), st.integers(20, 120)), max_size=3
    ),
    st.integers(0, 5),
)
def test_every_tile_of_every_kind_lies_wholly_in_one_allowed_rectangle(tile, boxes, seed):
    label = letters(220, 240, seed)
    rects = tuple(Rect(y, min(y + h, 220), x, min(x + w, 240)) for y, h, x, w in boxes)
    quota = Quota(edge=60, void=20, random=20, grid="all")
    table, _ = sample_part(
        label,
        np.ones(label.shape, bool),
        np.ones(label.shape, bool),
        Recipe(name="t", tile=tile, each=quota),
        seed=seed,
        fragment="a",
        part="a",
        rects=rects,
        quota=quota,
    )
    for y, x in zip(table.y, table.x, strict=True):
        assert any(r.y0 <= y and y + tile <= r.y1 and r.x0 <= x and x + tile <= r.x1 for r in rects)


@pytest.mark.parametrize("band", [64, 512])
def test_no_tile_of_any_kind_touches_what_the_data_hold_out_for_validation(monkeypatch, band):
    monkeypatch.setattr(scan, "BAND", band)
    label = letters()
    recipe = Recipe(name="t", tile=32, each=Quota(edge=300, void=100, random=300, grid="all"))
    held_out = np.zeros(label.shape, bool)
    held_out[300:420, 100:350] = True
    held_out[17, 33] = True  # one pixel is enough
    free, _ = build_table({"a": Fragment(label)}, None, recipe, seed=0)
    table, _ = build_table({"a": Fragment(label, validation=held_out)}, None, recipe, seed=0)
    for number in range(len(KINDS)):
        assert windows(held_out, free[free.kind == number], 32).any()
        kept = table[table.kind == number]
        assert len(kept)
        assert not windows(held_out, kept, 32).any()
    nothing, _ = build_table({"a": Fragment(label, validation=np.zeros_like(held_out))}, None, recipe, seed=0)
    assert nothing == free

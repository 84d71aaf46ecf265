"""Shards are predicted exactly, each tile once, and the same however the work is cut."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from data_recipes.fragment import Fragment
from tests.zoo.segments import CONTRACT, DEPTH, TILE, plan_of, tree, write_mask, write_segment
from zoo.predict.grid import Axis, Blend, Grid
from zoo.predict.plan import Plan, own_part
from zoo.predict.store import MapStore
from zoo.predict.work import predict_shards, probe, schedule

HEIGHT, WIDTH = 150, 217


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Fragment:
    return write_segment(tmp_path_factory.mktemp("segment"), HEIGHT, WIDTH)


class Model:
    """Answers with the middle layer, or with `constant`; notes the batches it is given."""

    def __init__(self, constant: float | None = None):
        self.constant, self.batches = constant, []

    def __call__(self, stacks: np.ndarray) -> np.ndarray:
        assert stacks.shape[1:] == (DEPTH, TILE, TILE)
        self.batches.append(stacks.copy())
        middle = stacks[:, DEPTH // 2].astype(np.float32) / 256
        return middle if self.constant is None else np.full_like(middle, self.constant)


def predicted(folder: Path, segment: Fragment, plan: Plan, model: Model | None = None) -> np.ndarray:
    store = MapStore.begin(folder, plan)
    predict_shards(store, segment, CONTRACT, model or Model(), range(len(store.grid)))
    assert store.missing() == []
    return np.asarray(zarr.open_array(folder / "0", mode="r")[:])


@pytest.mark.parametrize("blend", ["constant", "gaussian", "hann"])
@pytest.mark.parametrize(("overlap", "stride"), [(0.0, None), (0.5, None), (0.5, 20), (0.75, None)])
def test_an_identity_model_gives_its_input_back_to_the_bit(
    segment: Fragment, tmp_path: Path, blend: Blend, overlap: float, stride: int | None
) -> None:
    found = predicted(tmp_path / "a", segment, plan_of(segment, blend=blend, overlap=overlap, stride=stride))
    middle = segment.read(0, HEIGHT, 0, WIDTH, DEPTH // 2, DEPTH // 2 + 1)[0].astype(np.float32) / 256
    assert np.array_equal(found, middle.astype(np.float16))


@pytest.mark.parametrize("constant", [0.0, 0.1, 0.5, 1.0])
def test_a_constant_model_gives_a_map_without_seams_to_the_bit(
    segment: Fragment, tmp_path: Path, constant: float
) -> None:
    found = predicted(tmp_path / "a", segment, plan_of(segment, dtype="uint8"), Model(constant))
    assert np.unique(found).tolist() == [np.rint(np.float32(constant) * 255)]


def test_every_tile_is_computed_once_and_no_batch_is_larger_than_asked_for(segment: Fragment, tmp_path: Path) -> None:
    model, plan = Model(), plan_of(segment)
    predicted(tmp_path / "a", segment, plan, model)
    grid = plan.grid()
    assert sum(map(len, model.batches)) == len(grid.rows.origins) * len(grid.columns.origins)
    assert max(map(len, model.batches)) <= plan.batch_size


@pytest.mark.parametrize("parts", [2, 4, 12])
def test_parts_see_the_same_batches_and_give_the_same_bytes(segment: Fragment, tmp_path: Path, parts: int) -> None:
    plan, whole = plan_of(segment), Model()
    predicted(tmp_path / "one", segment, plan, whole)
    store, seen = MapStore.begin(tmp_path / "parts", plan), []
    for part in reversed(range(parts)):
        model = Model()
        predict_shards(store, segment, CONTRACT, model, own_part(len(store.grid), part, parts))
        seen += model.batches
    assert tree(tmp_path / "one/0") == tree(tmp_path / "parts/0")
    assert {batch.tobytes() for batch in seen} == {batch.tobytes() for batch in whole.batches}


@given(
    height=st.integers(5, 300),
    width=st.integers(5, 300),
    shard=st.sampled_from([16, 32, 64, 96]),
    stride=st.integers(4, 32),
    strip=st.integers(1, 4),
    data=st.data(),
)
def test_a_schedule_has_every_group_at_hand_when_a_shard_needs_it(
    height: int, width: int, shard: int, stride: int, strip: int, data: st.DataObject
) -> None:
    grid = Grid(Axis.of(height, TILE, 0.5, "hann", stride), Axis.of(width, TILE, 0.5, "hann", stride), shard)
    todo = data.draw(st.sets(st.integers(0, len(grid) - 1)))
    live, made = set(), []
    for step in schedule(grid, todo, strip):
        live.update(step.new)
        assert live.issuperset(step.groups)
        touching = {
            (y, x)
            for y in grid.rows.touching(*grid.rect(step.shard)[:2])
            for x in grid.columns.touching(*grid.rect(step.shard)[2:])
        }
        assert {corner for group in step.groups for corner in grid.corners(group)} == touching
        assert all(step.shard in grid.shards_of(group) for group in step.groups)
        live.difference_update(step.last)
        made.append(step.shard)
    assert not live
    assert sorted(made) == sorted(todo)


def test_beside_the_papyrus_the_map_is_0_and_tiles_without_any_are_not_computed(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:40, :50] = True
    segment, model = write_mask(write_segment(tmp_path / "s", HEIGHT, WIDTH), mask), Model(0.75)
    found = predicted(tmp_path / "a", segment, plan_of(segment), model)
    assert sum(map(len, model.batches)) == 3 * 4
    assert (found[:40, :50] == 0.75).all()
    assert np.count_nonzero(found) == 40 * 50
    assert not (tmp_path / "a/0/c/2/0").exists()  # a shard of nothing is no file


def test_a_segment_without_papyrus_is_a_map_of_zeros(tmp_path: Path) -> None:
    segment = write_mask(write_segment(tmp_path / "s", 40, 40), np.zeros((40, 40), bool))
    model = Model()
    assert not predicted(tmp_path / "a", segment, plan_of(segment), model).any()
    assert model.batches == []
    assert probe(segment, CONTRACT, plan_of(segment).grid()) is None


def test_a_segment_smaller_than_a_tile_works(tmp_path: Path) -> None:
    segment = write_segment(tmp_path / "s", 20, 45)
    found = predicted(tmp_path / "a", segment, plan_of(segment))
    middle = segment.read(0, 20, 0, 45, DEPTH // 2, DEPTH // 2 + 1)[0].astype(np.float32) / 256
    assert np.array_equal(found, middle.astype(np.float16))


def test_stopped_it_keeps_whole_shards_and_goes_on_to_the_same_bytes(segment: Fragment, tmp_path: Path) -> None:
    plan = plan_of(segment)
    predicted(tmp_path / "one", segment, plan)
    store, done = MapStore.begin(tmp_path / "cut", plan), []

    def stop() -> bool:
        done.append(len(store.missing()))
        return len(done) > 20

    with pytest.raises(KeyboardInterrupt):
        predict_shards(store, segment, CONTRACT, Model(), range(len(store.grid)), stop=stop)
    left = store.missing()
    assert 0 < len(left) < len(store.grid)
    model = Model()
    predict_shards(MapStore.begin(tmp_path / "cut", plan), segment, CONTRACT, model, range(len(store.grid)))
    assert tree(tmp_path / "one/0") == tree(tmp_path / "cut/0")


def test_progress_ends_at_all_pixels_and_counts_what_was_done_before(segment: Fragment, tmp_path: Path) -> None:
    store, told = MapStore.begin(tmp_path / "a", plan_of(segment)), []
    predict_shards(store, segment, CONTRACT, Model(), range(3))
    predict_shards(store, segment, CONTRACT, Model(), range(len(store.grid)), on_progress=told.append)
    assert told[0] == sum(store.grid.rect(shard).area for shard in range(3))
    assert told[-1] == HEIGHT * WIDTH
    assert told == sorted(told)


@pytest.mark.parametrize("where", ["read", "write"])
def test_what_cannot_be_read_or_written_ends_it_and_keeps_what_is_done(
    segment: Fragment, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, calls = MapStore.begin(tmp_path / "a", plan_of(segment)), []
    owner, name = (type(segment), "read") if where == "read" else (MapStore, "write")
    right = getattr(owner, name)

    def broken(*arguments, **options):
        calls.append(1)
        if len(calls) > 5:
            raise OSError(28, "No space left on device", "a/0/c/0/0")
        return right(*arguments, **options)

    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(OSError, match="No space left"):
        predict_shards(store, segment, CONTRACT, Model(), range(len(store.grid)))
    monkeypatch.setattr(owner, name, right)
    assert 0 < len(store.missing()) < len(store.grid)
    predict_shards(store, segment, CONTRACT, Model(), range(len(store.grid)))
    assert store.missing() == []


def test_a_store_is_gone_on_with_only_by_the_same_plan(segment: Fragment, tmp_path: Path) -> None:
    MapStore.begin(tmp_path / "a", plan_of(segment)).write(0, None)
    moved = plan_of(segment).model_copy(update={"path": "/elsewhere/segment"})
    assert MapStore.begin(tmp_path / "a", moved).plan == moved
    with pytest.raises(ValueError, match=r"begun with another overlap \(0.5 → 0.25\)"):
        MapStore.begin(tmp_path / "a", plan_of(segment, overlap=0.25))
    with pytest.raises(FileNotFoundError, match="no unfinished map"):
        MapStore.resume(tmp_path / "b")
    (tmp_path / "a/.inkzoo/plan.json").write_text("{}")
    with pytest.raises(ValueError, match="not a plan of this version"):
        MapStore.resume(tmp_path / "a")


def test_two_processes_cannot_be_at_one_part_nor_at_two_divisions(segment: Fragment, tmp_path: Path) -> None:
    one, other = (MapStore.begin(tmp_path / "a", plan_of(segment)) for _ in range(2))
    with one.claim(0, 2):
        with other.claim(1, 2):
            pass
        with pytest.raises(ValueError, match="another process is at part 0 of its 2"), other.claim(0, 2):
            pass
        with pytest.raises(ValueError, match="at part-0-of-2"), other.claim(0, 3):
            pass
    with other.claim(0, 3):
        assert other.parts() == 3


def test_missing_parts_are_counted(segment: Fragment, tmp_path: Path) -> None:
    store = MapStore.begin(tmp_path / "a", plan_of(segment))
    assert len(store.grid) == 12
    for shard in (*range(3), 5):
        store.write(shard, None)
    assert store.missing_parts(4) == [(1, 2), (2, 3), (3, 3)]


def test_a_store_of_which_nothing_is_done_is_begun_anew(segment: Fragment, tmp_path: Path) -> None:
    first = MapStore.begin(tmp_path / "a", plan_of(segment, dtype="uint8"))
    with first.claim(0, 1), pytest.raises(ValueError, match="begun with another dtype"):
        MapStore.begin(tmp_path / "a", plan_of(segment, dtype="float16"))
    MapStore.begin(tmp_path / "a", plan_of(segment, dtype="float16"))
    assert zarr.open_array(tmp_path / "a/0", mode="r").dtype == np.float16
    (tmp_path / "a/.inkzoo/plan.json").unlink()  # killed between the array and the plan
    MapStore.begin(tmp_path / "a", plan_of(segment, dtype="uint8"))
    assert zarr.open_array(tmp_path / "a/0", mode="r").dtype == np.uint8


def test_it_can_be_stopped_while_a_server_does_not_answer(
    segment: Fragment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()
    monkeypatch.setattr(type(segment), "read", lambda *_: answer.wait(200))
    store = MapStore.begin(tmp_path / "a", plan_of(segment))
    try:
        with pytest.raises(KeyboardInterrupt):
            predict_shards(store, segment, CONTRACT, Model(), [0], stop=iter([False, True]).__next__)
    finally:
        answer.set()

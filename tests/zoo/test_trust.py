"""Planted faults: each of the ways in which a benchmark has fooled its makers is caught, and said on the row."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from data_recipes.fragment import Fragment, open_fragments
from data_recipes.regions import Rect
from data_recipes.split import Fold, leak_report
from data_recipes.table import SampleTable
from tests.zoo.test_bench_parts import fragment, plan, suite
from zoo.bench import leaderboard, tables
from zoo.bench.floors import fit_layout
from zoo.bench.leaderboard import Row
from zoo.bench.plan import RunSpec, plan_runs, resolve_models
from zoo.bench.result import Result
from zoo.bench.run import data_order, train_stage
from zoo.bench.score import score
from zoo.bench.suite import ModelEntry
from zoo.train.config import TrainConfig

SIDE = 1024
TEST = Rect(0, SIDE, SIDE // 2, SIDE)
FOLD = Fold("f", {"a": (Rect(0, SIDE, 0, 300),)}, {"a": (Rect(0, SIDE, 300, 400),)}, {"a": (TEST,)}, 64)


def texture(seed: int, grain: float = 12) -> np.ndarray:
    """(SIDE, SIDE) smooth noise of unit deviation."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal((SIDE, SIDE)), grain, mode="wrap")
    return noise / noise.std()


@pytest.fixture(scope="module")
def page() -> Fragment:
    """A fragment of blotches of ink, as many in any row as in any other."""
    return fragment((texture(1) > 0.7).astype(np.uint8))


def squash(logit: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


def finished(spec: RunSpec, out: Path, page: Fragment, prob: np.ndarray, **changed: Any) -> Result:
    """A run whose map is `prob`, scored as every run is."""
    folder = out / "runs" / spec.run_id
    folder.mkdir(parents=True)
    found = score(lambda f, r: prob[r.slices], {"a": page}, FOLD, folder=folder, letter_px=128)
    said: dict[str, Any] = {"quality": found.quality, "controls": found.controls, **changed}
    return Result(run_id=spec.run_id, status="ok", spec=spec, **said)


def spec(page: Fragment, label: str, **changed: Any) -> RunSpec:
    first, *_ = plan(suite(models=[ModelEntry(name="depthcnn")], floors=[]), {"a": page}, [0], steps=5)
    where = {"test_rects": {"a": [tuple(TEST)]}, "fold": "f", "letter_px": 128}
    return first.model_copy(update={"label": label, **where, **changed})


def settings(seed: int) -> dict[str, Any]:
    return {"seed": seed, "batch_size": 8}


def rows_of(results: list[Result], out: Path) -> dict[str, Row]:
    return {row.label: row for row in leaderboard.build_rows(results, out, floors=["layout"])}


def test_a_model_that_reads_passes_its_controls(page: Fragment, tmp_path: Path) -> None:
    assert page.label is not None
    reads = squash(2.0 * page.label[:] - 1 + texture(2))
    layout = fit_layout({"a": page}, FOLD.train)(page, Rect(0, SIDE, 0, SIDE))
    results = [
        finished(spec(page, "reads"), tmp_path, page, reads),
        finished(spec(page, "layout", floor=True), tmp_path, page, layout),
    ]
    row = rows_of(results, tmp_path)["reads"]
    assert row.failures == row.unchecked == []
    assert (row.verdict, row.not_run) == ("passed those run", ["labels turned"])
    assert row.rank == 1
    assert row.blocks == 32  # of 128 px in 1024 × 512, all of them with ink


def test_a_floor_that_failed_leaves_its_control_unchecked_not_passed(page: Fragment, tmp_path: Path) -> None:
    assert page.label is not None
    reads = finished(spec(page, "reads"), tmp_path, page, squash(2.0 * page.label[:] - 1 + texture(2)))
    floor = Result(run_id="x", status="failed", spec=spec(page, "layout", floor=True))
    row = rows_of([reads, floor], tmp_path)["reads"]
    assert row.verdict == "not checked"
    assert row.unchecked == ["no comparison with layout: runs are missing"]


def test_a_region_too_small_to_be_shifted_leaves_the_null_unchecked(tmp_path: Path) -> None:
    small = fragment((texture(1)[:320, :320] > 0.7).astype(np.uint8))
    fold = Fold("f", {}, {"a": (Rect(0, 320, 0, 100),)}, {"a": (Rect(0, 320, 160, 320),)}, 32)
    folder = tmp_path / "runs/x"
    folder.mkdir(parents=True)
    prob = squash(texture(2)[:320, :320])
    found = score(lambda f, r: prob[r.slices], {"a": small}, fold, folder=folder, letter_px=64)
    result = Result(run_id="x", status="ok", spec=spec(small, "m"), quality=found.quality, controls=found.controls)
    (row,) = leaderboard.build_rows([result], tmp_path, floors=[])
    assert row.verdict == "not checked"
    assert "no null" in row.unchecked[0]


def test_a_turned_control_that_failed_leaves_its_model_unchecked(page: Fragment, tmp_path: Path) -> None:
    assert page.label is not None
    model = finished(spec(page, "model"), tmp_path, page, squash(2.0 * page.label[:] - 1 + texture(7)))
    broken = spec(page, "model, labels turned", labels_turned=True)
    rows = leaderboard.build_rows([model, Result(run_id="x", status="failed", spec=broken)], tmp_path, floors=[])
    assert rows[0].unchecked == ["turned labels: failed"]


def test_rows_with_degraded_input_are_controls_not_contenders(page: Fragment, tmp_path: Path) -> None:
    assert page.label is not None
    prob = squash(2.0 * page.label[:] - 1 + texture(2))
    degraded = spec(page, "model on zmean", train={"degrade": "zmean"})
    results = [finished(one, tmp_path, page, prob) for one in (spec(page, "model"), degraded)]
    rows = rows_of(results, tmp_path)
    assert (rows["model"].rank, rows["model on zmean"].rank) == (1, None)
    assert rows["model on zmean"].control
    assert rows["model on zmean"].failures == []


def test_training_tiles_that_reach_into_the_test_region_stop_the_run() -> None:
    one = np.array([0])
    inside = SampleTable.of("a", one, one + SIDE // 2 - 32, one.astype(np.float32), -1, "random")
    with pytest.raises(ValueError, match="test"):
        leak_report(inside, 64, FOLD).check()


def test_the_bench_itself_stops_a_run_whose_tiles_reach_into_the_test_region(tmp_path: Path) -> None:
    data = ["phantom:dipole:1:256x512"]
    bench = suite(models=[ModelEntry(name="depthcnn")], floors=[], tile=32, samples=20)
    run, *_ = plan_runs(
        bench,
        resolve_models(bench, None, "cpu"),
        open_fragments(data),
        data=data,
        device="cpu",
        seeds=[0],
        folds=[0],
        train={"steps": 1},
    )
    wrong = run.model_copy(update={"train_rects": run.test_rects})
    with pytest.raises(ValueError, match="test"):
        train_stage(wrong, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_leak_that_was_let_pass_is_on_the_row(page: Fragment, tmp_path: Path) -> None:
    prob = squash(texture(3))
    leaky = finished(spec(page, "leaky"), tmp_path, page, prob)
    leaky.controls["leak"] = {"overlap_px": 42}
    (row,) = rows_of([leaky], tmp_path).values()
    assert "42 test pixels were seen in training" in row.failures


def test_a_map_that_only_has_the_texture_of_ink_is_not_above_its_shifted_self(page: Fragment, tmp_path: Path) -> None:
    (row,) = rows_of([finished(spec(page, "guesses"), tmp_path, page, squash(2 * texture(4)))], tmp_path).values()
    assert "not above what its own map scores when shifted" in row.failures


def test_a_model_that_only_reads_the_layout_is_not_above_it(tmp_path: Path) -> None:
    lines = np.zeros((SIDE, SIDE), np.uint8)
    for top in range(40, SIDE, 200):
        lines[top : top + 90] = texture(5)[top : top + 90] > 0
    lined = fragment(lines)
    layout = fit_layout({"a": lined}, FOLD.train)(lined, Rect(0, SIDE, 0, SIDE))
    noisy = np.clip(layout + 0.02 * texture(6), 0, 1).astype(np.float32)
    results = [
        finished(spec(lined, "reads lines"), tmp_path, lined, noisy),
        finished(spec(lined, "layout", floor=True), tmp_path, lined, layout),
    ]
    assert (results[0].quality["auc"] or 0) > 0.7  # what a table without floors would show
    assert any("not above layout" in failure for failure in rows_of(results, tmp_path)["reads lines"].failures)


def test_labels_that_were_turned_and_still_are_found_mark_control_and_model(page: Fragment, tmp_path: Path) -> None:
    assert page.label is not None
    turned = fragment(np.ascontiguousarray(page.label[:][::-1, ::-1]))
    reads, leaks = (squash(2.0 * cast(Any, one).label[:] - 1 + texture(7)) for one in (page, turned))
    control = {"label": "model, labels turned", "labels_turned": True}
    honest = [
        finished(spec(page, "model"), tmp_path / "a", page, reads),
        finished(spec(page, **control), tmp_path / "a", turned, squash(texture(8))),
    ]
    found = rows_of(honest, tmp_path / "a")
    assert [found[label].failures for label in ("model", "model, labels turned")] == [[], []]
    assert found["model, labels turned"].rank is None
    leaking = [
        finished(spec(page, "model"), tmp_path / "b", page, reads),
        finished(spec(page, **control), tmp_path / "b", turned, leaks),
    ]
    found = rows_of(leaking, tmp_path / "b")
    assert "still scores" in found["model, labels turned"].failures[0]
    assert "turned labels it still scores" in found["model"].failures[0]


def test_a_leak_in_one_of_two_fragments_is_not_hidden_by_the_other(page: Fragment, tmp_path: Path) -> None:
    control = spec(page, "model, labels turned", labels_turned=True)
    fragments = {"clean": {"null_auc": 0.5, "null_high": 0.56}, "leaks": {"null_auc": 0.9, "null_high": 0.56}}
    turned = finished(control, tmp_path, page, squash(texture(8)), controls=fragments["clean"], per_fragment=fragments)
    reads = squash(2.0 * cast(Any, page).label[:] - 1 + texture(7))
    found = rows_of([finished(spec(page, "model"), tmp_path, page, reads), turned], tmp_path)
    assert "still scores: AUC 0.900" in found["model, labels turned"].failures[0]


def test_a_pixel_of_false_ink_in_every_block_is_no_evidence_for_a_rank(page: Fragment, tmp_path: Path) -> None:
    label = cast(Any, page).label[:].copy()
    label[384:, TEST.x0 :] = 0  # leaves ink in twelve of the 32 letter blocks that are tested
    sparse, spots = fragment(label), np.zeros((SIDE, SIDE), np.float32)
    spots[64::128, 64::128] = 1
    honest, greedy = (squash(2.0 * label - 1 + texture(seed)) for seed in (7, 8))
    maps = {"honest": honest, "greedy": np.maximum(greedy, spots)}
    found = rows_of([finished(spec(page, name), tmp_path, sparse, prob) for name, prob in maps.items()], tmp_path)
    assert [(row.rank, row.blocks) for row in found.values()] == [(None, 12)] * 2


def test_every_contender_is_run_on_turned_labels_once_where_the_suite_asks(page: Fragment) -> None:
    models = [ModelEntry(name="depthcnn"), ModelEntry(name="depthcnn", label="on the mean", input="zmean")]
    runs = plan(suite(models=models, floors=["layout", "zmean"], labels_turned=True), {"a": page}, [0, 1], steps=5)
    turned = [run for run in runs if run.labels_turned]
    assert {run.label for run in turned} == {"depthcnn_tiny, labels turned"}
    assert {run.seed for run in turned} == {0}
    assert len({run.run_id for run in runs}) == len(runs)


def test_two_seeds_that_draw_the_same_tiles_in_the_same_order_are_one_seed(page: Fragment, tmp_path: Path) -> None:
    order = np.arange(64)
    table = SampleTable.of("a", order, order, order.astype(np.float32), -1, "random")
    drawn = [data_order(table, TrainConfig(**settings(seed))) for seed in (0, 1, 1)]
    assert drawn[0] != drawn[1] == drawn[2]
    results = [
        finished(spec(page, "model", seed=seed), tmp_path, page, squash(texture(9 + seed)), tiles={"order": digest})
        for seed, digest in zip((0, 1, 2), drawn, strict=True)
    ]
    (row,) = rows_of(results, tmp_path).values()
    assert "seeds 1, 2 drew the same tiles in the same order: they are one seed" in row.failures


def test_what_fails_is_marked_in_every_output(page: Fragment, tmp_path: Path) -> None:
    result = finished(spec(page, "guesses"), tmp_path, page, squash(2 * texture(4)))
    rows = leaderboard.build_rows([result], tmp_path, floors=[])
    said = "not above what its own map scores when shifted"
    tables.write_leaderboard(rows, tmp_path, title="t", caption=[], meta={})
    for kind in ("md", "csv", "json"):
        assert said in (tmp_path / f"leaderboard.{kind}").read_text()

"""The parts of the bench that need no training: suites, plans, floors, scores, comparison, leaderboard."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from filelock import FileLock
from rich.console import Console

from data_recipes.fragment import Fragment
from data_recipes.regions import Rect
from data_recipes.split import Fold
from data_recipes.split_spec import SplitSpec
from zoo.bench import compare, leaderboard, tables
from zoo.bench.command import _check_models as check_models
from zoo.bench.floors import fit_allink, fit_layout
from zoo.bench.plan import RunSpec, plan_runs, resolve_models
from zoo.bench.result import Result, load_result
from zoo.bench.runner import LOCK_FILE, run_all
from zoo.bench.score import BLOCK_FILE, score
from zoo.bench.suite import ModelEntry, Suite, load_suite
from zoo.configs import list_configs
from zoo.registry import list_models


def fragment(label: np.ndarray, name: str = "a") -> Fragment:
    everywhere = np.ones(label.shape, bool)
    fake = SimpleNamespace(
        path=Path("nowhere"),
        sources={},
        name=name,
        shape=label.shape,
        depth=4,
        label=label,
        other_label=None,
        papyrus=everywhere,
        supervised=everywhere,
        validation=None,
        volume=None,
        voxel_um=None,
        direction="forward",
        center_layer=0,
        to_uint8=None,
    )
    return cast(Fragment, fake)


def suite(**changed: Any) -> Suite:
    settings: dict[str, Any] = {"name": "s", "about": "a", "models": [ModelEntry(name="depthcnn")], **changed}
    return Suite(**settings)


def plan(bench: Suite, fragments: Mapping[str, Fragment], seeds: list[int], **train: Any) -> list[RunSpec]:
    models = resolve_models(bench, None, "cpu")
    return plan_runs(bench, models, fragments, data=["x"], device="cpu", seeds=seeds, folds=[], train=train)


@pytest.mark.parametrize("name", list_configs("suites"))
def test_a_shipped_suite_loads_and_names_registered_models(name: str) -> None:
    shipped = load_suite(name)
    for entry in resolve_models(shipped, None, "cpu"):
        assert entry.name in [*list_models(), "allink", "layout"]


def test_an_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="quick"):
        load_suite("quik")


def test_an_unknown_key_of_a_suite_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("about: x\nmodels: [{name: sam}]\ntiel: 64\n")
    with pytest.raises(ValueError, match="tiel"):
        load_suite(str(file))


def test_the_buffer_is_at_least_a_tile() -> None:
    assert suite(tile=96, split=SplitSpec(buffer=10)).buffer == 96
    assert suite(tile=96, split=SplitSpec(buffer=200)).buffer == 200


def test_floors_follow_whatever_was_asked_for() -> None:
    labels = [entry.label for entry in resolve_models(suite(), ["repmode"], "cpu")]
    assert labels == ["repmode_tiny", "allink", "layout", "zmean"]


def test_two_rows_of_one_label_are_refused() -> None:
    rows = [ModelEntry(name="sam", label="a"), ModelEntry(name="repmode", label="sam_tiny")]
    with pytest.raises(ValueError, match="label of its own"):
        resolve_models(suite(models=rows), ["sam_tiny", "sam"], "cpu")


def test_a_budget_on_the_command_line_replaces_the_suites() -> None:
    fragments = {"a": fragment(np.eye(1024, dtype=np.uint8))}
    bench = suite(train={"minutes": 5, "lr": 0.1}, floors=[])
    (spec, *_) = plan(bench, fragments, [0], steps=7)
    assert spec.train["steps"] == 7
    assert "minutes" not in spec.train


def test_runs_differ_in_their_folder_by_seed_and_by_setting() -> None:
    fragments = {"a": fragment(np.eye(1024, dtype=np.uint8))}
    specs = [*plan(suite(), fragments, [0, 1], steps=5), *plan(suite(), fragments, [0, 1], steps=6)]
    trained = [spec for spec in specs if not spec.floor]
    assert len({spec.run_id for spec in trained}) == len(trained)


def test_layout_scores_on_lines_that_run_on_and_within_rows_says_nothing() -> None:
    label = np.zeros((512, 512), np.uint8)
    label[100:200, ::2] = label[300:400, ::2] = 1
    page = fragment(label)
    predict = fit_layout({"a": page}, {"a": (Rect(0, 512, 0, 256),)})
    prob = predict(page, Rect(0, 512, 320, 512))  # beyond what smoothing over 96 px reaches
    assert prob[150].mean() > 3 * prob[250].mean()
    assert np.ptp(prob, axis=1).max() == 0


def test_the_threshold_comes_from_the_calibration_region_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = (rng.random((512, 512)) < 0.3).astype(np.uint8)
    prob = np.clip(0.3 * label + 0.5 * rng.random(label.shape), 0, 1).astype(np.float32)
    fold = Fold("f", {}, {"a": (Rect(0, 512, 0, 128),)}, {"a": (Rect(0, 512, 256, 512),)}, 64)
    other = label.copy()
    other[:, 256:] = 1 - other[:, 256:]
    found = [
        score(lambda f, r: prob[r.slices], {"a": fragment(truth)}, fold, folder=tmp_path, letter_px=64)
        for truth in (label, other)
    ]
    assert found[0].threshold == found[1].threshold
    assert found[0].quality["dice"] != found[1].quality["dice"]


def test_an_unsupervised_pixel_never_counts(tmp_path: Path) -> None:
    label = np.zeros((256, 512), np.uint8)
    label[:, 300:340] = label[:, 20:60] = 1
    page = fragment(label)
    cast(Any, page).supervised = np.ones(label.shape, bool)
    page.supervised[:, 400:] = False  # pyright: ignore[reportIndexIssue]
    wrong = label.astype(np.float32)
    wrong[:, 400:] = 1
    fold = Fold("f", {}, {"a": (Rect(0, 256, 0, 128),)}, {"a": (Rect(0, 256, 256, 512),)}, 64)
    outcome = score(lambda f, r: wrong[r.slices], {"a": page}, fold, folder=tmp_path, letter_px=64)
    assert outcome.quality["dice"] == 1.0
    assert outcome.quality["auc"] == 1.0


def counts(quality: float, blocks: int, seed: int) -> np.ndarray:
    ink = 400 + np.random.default_rng(7).integers(0, 200, blocks)
    share = np.clip(quality + 0.05 * np.random.default_rng(seed).standard_normal(blocks), 0, 1)
    tp = (ink * share).astype(np.int64)
    return np.stack([tp, ink - tp, ink - tp], 1)


def test_holm_rejects_step_down_and_stops_at_the_first_that_holds() -> None:
    assert compare.holm([0.001, 0.03, 0.02, 0.9]) == [True, False, False, False]
    assert compare.holm([0.001, 0.016, 0.02, 0.9]) == [True, True, True, False]


def saved_results(out: Path, qualities: dict[str, float], blocks: int, folds: int = 1) -> list[Result]:
    """Finished runs of three seeds, as scoring leaves them."""
    fragments = {"a": fragment(np.eye(1024, dtype=np.uint8))}
    results = []
    for label, quality in qualities.items():
        bench = suite(models=[ModelEntry(name="depthcnn", label=label)], floors=[], folds=list(range(folds)))
        for spec in plan(bench, fragments, [0, 1, 2], steps=5):
            folder = out / "runs" / spec.run_id
            folder.mkdir(parents=True)
            score = np.linspace(0, 1, blocks) if quality > 0.6 else np.linspace(1, 0, blocks)
            place = {"row": np.arange(blocks) * 8, "col": np.zeros(blocks, int), "ink": np.arange(blocks) % 2 > 0}
            np.savez_compressed(folder / BLOCK_FILE, counts=counts(quality, blocks, spec.seed), score=score, **place)
            results.append(Result(run_id=spec.run_id, status="ok", spec=spec, quality={"dice": quality, "auc": 0.5}))
    return results


def test_a_failed_run_of_one_fold_leaves_the_others_ranked(tmp_path: Path) -> None:
    results = saved_results(tmp_path, {"good": 0.8, "bad": 0.5, "broken": 0.9}, blocks=60, folds=2)
    results = [
        result.model_copy(update={"status": "failed"}) if result.spec.label == "broken" and index % 6 == 0 else result
        for index, result in enumerate(results)
    ]
    rows = {row.label: row for row in leaderboard.build_rows(results, tmp_path, floors=["bad"])}
    assert (rows["good"].rank, rows["bad"].rank, rows["broken"].rank) == (1, None, None)
    assert "lacks" in rows["broken"].warnings[0]
    assert rows["broken"].dice is not None


def test_a_floor_that_calls_everything_ink_does_not_make_up_for_too_few_blocks(tmp_path: Path) -> None:
    results = saved_results(tmp_path, {"good": 0.8, "better": 0.9, "floor": 0.5}, blocks=60)
    for result in results:
        path = tmp_path / "runs" / result.run_id / BLOCK_FILE
        with np.load(path) as arrays:
            saved = dict(arrays)
        saved["counts"][10:] = [0, 50, 0] if result.spec.label == "floor" else 0
        np.savez_compressed(path, **saved)
    assert all(row.rank is None for row in leaderboard.build_rows(results, tmp_path, floors=["floor"]))


def with_dice(results: list[Result], out: Path, dice: dict[tuple[str, int], float]) -> list[Result]:
    """The runs of (label, seed) in the first fold, which found as much of each block's ink as gives them this Dice."""
    fold = results[0].spec.fold
    kept = [run for run in results if run.spec.fold == fold and (run.spec.label, run.spec.seed) in dice]
    for result in kept:
        path = out / "runs" / result.run_id / BLOCK_FILE
        with np.load(path) as arrays:
            saved = dict(arrays)
        found = np.full(len(saved["counts"]), 1000 * dice[result.spec.label, result.spec.seed]).astype(int)
        saved["counts"] = np.stack([found, 1000 - found, 1000 - found], -1)
        np.savez_compressed(path, **saved)
    return kept


def test_a_model_whose_seeds_end_far_apart_has_no_rank_and_hides_nobody_even_where_it_leads(tmp_path: Path) -> None:
    calm = {(f"m{index}", seed): 0.6 + 0.01 * seed + 0.001 * index for index in range(8) for seed in range(3)}
    worse = {("worse", seed): 0.4 + 0.01 * seed for seed in range(3)}
    wild = {("wild", seed): dice for seed, dice in enumerate((0.5, 0.8, 0.9))}
    labels = dict.fromkeys([label for label, _ in (calm | worse | wild)], 0.8)
    results = with_dice(saved_results(tmp_path, labels, blocks=60), tmp_path, calm | worse | wild)
    rows = {row.label: row for row in leaderboard.build_rows(results, tmp_path, floors=[])}
    assert {row.rank for label, row in rows.items() if label.startswith("m")} == {1}
    assert (rows["worse"].rank, rows["wild"].rank, rows["wild"].to_leader) == (2, None, None)
    assert "not ranked: its seeds end too far apart (SD of Dice 0.21)" in rows["wild"].warnings[0]
    assert rows["m0"].seed_sd == pytest.approx(0.01)
    assert [run["seed"] for run in rows["m0"].each_run] == [0, 1, 2]


def test_one_run_each_tells_apart_only_what_seeds_would_hardly_do(tmp_path: Path) -> None:
    dice = {("a", 0): 0.7, ("b", 0): 0.65, ("c", 0): 0.6}
    results = with_dice(saved_results(tmp_path, {"a": 0.8, "b": 0.8, "c": 0.8}, blocks=60), tmp_path, dice)
    rows = {row.label: row for row in leaderboard.build_rows(results, tmp_path, floors=[])}
    assert [rows[label].rank for label in "abc"] == [1, 1, 2]
    assert rows["a"].dice_high == pytest.approx(0.7 + 1.96 * 0.02)  # blocks that are all alike add nothing


def test_all_is_one_of_each_family_and_works_with_every_shipped_suite() -> None:
    for name in list_configs("suites"):
        labels = [entry.label for entry in resolve_models(load_suite(name), ["all"], "cpu")]
        assert {"sam_tiny", "repmode_tiny", "depthcnn_tiny", "zmean"} <= set(labels)


def test_a_suites_own_settings_go_before_its_families() -> None:
    fragments = {"a": fragment(np.eye(1024, dtype=np.uint8))}
    (spec,) = plan(suite(train={"steps": 3, "lr": 0.123}, floors=[]), fragments, [0])[:1]
    assert spec.train["lr"] == 0.123
    assert spec.train["warmup"] == 0.3  # the family's


def test_rows_are_grouped_by_what_can_be_told_apart(tmp_path: Path) -> None:
    qualities = {"good": 0.8, "bad": 0.5, "good too": 0.8, "floor": 0.3}
    rows = leaderboard.build_rows(saved_results(tmp_path, qualities, blocks=60), tmp_path, floors=["floor"])
    assert [(row.label, row.rank) for row in rows[2:]] == [("bad", 2), ("floor", None)]
    assert {row.label: row.rank for row in rows[:2]} == {"good": 1, "good too": 1}
    assert rows[0].above_floors["floor"]["lo"] > 0


def test_no_rank_is_given_below_thirty_blocks(tmp_path: Path) -> None:
    results = saved_results(tmp_path, {"good": 0.8, "bad": 0.5}, blocks=5)
    assert all(row.rank is None for row in leaderboard.build_rows(results, tmp_path, floors=[]))


def test_a_failed_run_is_the_last_row_with_its_reason(tmp_path: Path) -> None:
    results = saved_results(tmp_path, {"good": 0.8}, blocks=60)
    spec = results[0].spec.model_copy(update={"label": "a|b<i>`$x"})
    failed = Result(run_id="x", status="out_of_memory", reason="too | big", spec=spec)
    rows = leaderboard.build_rows([failed, *results], tmp_path, floors=[])
    assert [row.label for row in rows] == ["good", "a|b<i>`$x"]
    page = tables.markdown(rows, "t", [])
    (line,) = (line for line in page.splitlines() if "out of memory" in line)
    assert line.count(" | ") == page.splitlines()[2].count(" | ")
    assert "<i>" not in page


HOSTILE = "![x](https://evil/t.png) <img src=x> [y](z) *b* `c` \\` a|b\n# h\u2028- i &lt;"


def test_a_hostile_name_or_machine_is_plain_text_in_markdown() -> None:
    row = leaderboard.Row(HOSTILE, HOSTILE, "failed", reason=HOSTILE)
    page = tables.markdown([row], HOSTILE, [f"{HOSTILE}; torch 2"])
    assert len(page.splitlines()) == 7  # title, table of one row, one line of caption, and what is between them
    for line in (page.splitlines()[0], *page.splitlines()[-3:]):
        assert not re.search(r"<|>|&(?!amp;|lt;|gt;)", line)
        assert not re.search(r"(?<!\\)(?:\\\\)*[][*`]", line)
    (cells,) = [line for line in page.splitlines() if "failed" in line]
    assert len(re.findall(r"(?<!\\)\|", cells)) == len(re.findall(r"\|", page.splitlines()[2]))
    for name in ("sam_vit_b", "unet3plus, enhanced, GLU", "my_package:build_it"):
        assert f"| {name} |" in tables.markdown([leaderboard.Row(name, name, "ok")], "t", [])


def test_a_result_survives_the_disk_and_a_broken_one_is_named(tmp_path: Path) -> None:
    (result, *_) = saved_results(tmp_path, {"good": 0.8}, blocks=60)
    path = result.save(tmp_path / "r")
    assert load_result(path) == result
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match="result.json"):
        load_result(path)


def test_all_ink_is_all_ink() -> None:
    predict = fit_allink({}, {})
    assert predict(fragment(np.zeros((4, 4), np.uint8)), Rect(0, 3, 0, 2)).tolist() == [[1.0, 1.0]] * 3


def test_classes_reach_every_run() -> None:
    label = np.random.default_rng(0).random((128, 128)) < 0.5
    fragments = {name: fragment(label, name) for name in "ab"}
    (one, *_), (three, *_) = (plan(suite(tile=16, classes=classes), fragments, [0]) for classes in (1, 3))
    assert (one.classes, three.classes) == (1, 3)
    assert one.digest != three.digest
    with pytest.raises(ValueError, match="classes"):
        suite(classes=0)


def test_a_row_is_checked_as_it_will_be_built() -> None:
    label = np.random.default_rng(0).random((128, 128)) < 0.5
    fragments = {name: fragment(label, name) for name in "ab"}
    rows = suite(tile=32, classes=2, models=[ModelEntry(name="sam_tiny", options={"multimask": True})], floors=[])
    with pytest.raises(ValueError, match="multimask gives candidates for one class, not for 2"):
        check_models(plan(rows, fragments, [0]))
    check_models(plan(rows.model_copy(update={"classes": 1}), fragments, [0]))
    smooth = suite(tile=32, classes=3, floors=[], train={"loss": "bce", "smoothing": 0.4})
    with pytest.raises(ValueError, match=r"depthcnn_tiny: smoothing 0.4 is not possible with 3 class"):
        check_models(plan(smooth, fragments, [0]))


def test_a_models_own_settings_are_taken_where_it_starts_from_given_weights() -> None:
    label = np.random.default_rng(0).random((128, 128)) < 0.5
    fragments = {name: fragment(label, name) for name in "ab"}
    rows = [
        ModelEntry(name="sam_vit_b"),
        ModelEntry(name="sam_vit_b", label="pretrained", options={"pretrained": True}),
    ]
    runs = plan(suite(tile=16, models=rows, floors=[]), fragments, [0])
    rates = {run.label: (run.train["lr"], run.train.get("layer_decay", 1.0)) for run in runs}
    assert rates == {"sam_vit_b": (1e-3, 1.0), "pretrained": (8e-4, 0.6)}


def test_a_run_that_another_bench_is_at_is_left_to_it_and_waited_for(tmp_path: Path, monkeypatch) -> None:
    label = np.eye(1024, dtype=np.uint8)
    fragments = {"a": fragment(label), "b": fragment(label, "b")}
    specs = plan(suite(), fragments, [0, 1])[:2]
    ran: list[str] = []

    def run(spec: RunSpec, folder: Path, console: Console) -> Result:
        ran.append(spec.run_id)
        other.release()  # the other bench gets to the end of its run once ours is done
        result = Result(run_id=spec.run_id, status="ok", spec=spec, quality={"dice": 0.5})
        result.save(folder)
        return result

    monkeypatch.setattr("zoo.bench.runner._run", run)
    monkeypatch.setattr("zoo.bench.runner._count_scoring", lambda spec: 1)
    first = tmp_path / "runs" / specs[0].run_id
    first.mkdir(parents=True)
    other = FileLock(first / LOCK_FILE, thread_local=False)
    other.acquire()
    Result(run_id=specs[0].run_id, status="failed", reason="it fell ill", spec=specs[0]).save(first)
    said = io.StringIO()
    results = run_all(specs, tmp_path, Console(file=said, width=120))
    assert ran == [specs[1].run_id]
    assert [result.status for result in results] == ["failed", "ok"]
    assert said.getvalue().index("another bench is at it") < said.getvalue().index("finished before, kept")

"""`python -m zoo.bench report`: benches of several machines become one leaderboard, or a refusal that says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.zoo.test_bench_parts import fragment, plan, saved_results, suite
from zoo.bench.__main__ import ReportOptions
from zoo.bench.merge import BenchRecord, check_comparable, keep_record, report_command
from zoo.bench.plan import RunSpec
from zoo.bench.result import Result, load_result
from zoo.bench.suite import ModelEntry, Suite


def bench(out: Path, qualities: dict[str, float], seeds: tuple[int, ...] = (0, 1, 2), **environment: Any) -> Path:
    """A finished bench in `out`, as `zoo.bench` leaves it."""
    results = [result for result in saved_results(out, qualities, blocks=60) if result.spec.seed in seeds]
    for result in results:
        result.environment = environment
        result.save(out / "runs" / result.run_id)
    BenchRecord(suite=suite(), runs=[result.run_id for result in results]).save(out)
    return out


def merged(*folders: Path, out: Path) -> str:
    assert report_command(ReportOptions(folders, out=out, pictures=False)) == 0
    return (out / "leaderboard.md").read_text()


def planned(**changed: Any) -> tuple[Suite, list[RunSpec]]:
    made = suite(**{"models": [ModelEntry(name="depthcnn")], "floors": [], **changed})
    return made, plan(made, {"a": fragment(np.eye(1024, dtype=np.uint8))}, [0, 1])


def test_models_and_seeds_of_two_machines_stand_in_one_table(tmp_path: Path) -> None:
    a = bench(tmp_path / "a", {"good": 0.8, "bad": 0.5}, (0,), hardware="one")
    b = bench(tmp_path / "b", {"good": 0.8, "bad": 0.5}, (1, 2), hardware="other")
    for out, seeds in ((a, [0]), (b, [1, 2])):
        record = BenchRecord.load(out)
        record.model_copy(update={"suite": suite(seeds=seeds)}).save(out)
    page = merged(a, b, out=tmp_path / "both")
    assert "seeds 0, 1, 2" in page
    assert "seconds and memory of different machines cannot be compared" in page
    assert len(list((tmp_path / "both/runs").glob("*/result.json"))) == 12  # two models, two folds
    assert BenchRecord.load(tmp_path / "both").suite.seeds == [0, 1, 2]
    assert merged(tmp_path / "both", out=tmp_path / "both") == page


def test_a_run_that_both_made_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (bench(tmp_path / name, {"good": 0.8}, seeds) for name, seeds in (("a", (0, 1)), ("b", (1, 2))))
    assert "seeds 0, 1, 2" in merged(a, b, out=tmp_path / "both")
    assert "good, fold" in capsys.readouterr().out
    assert len(list((tmp_path / "both/runs").iterdir())) == 6  # two folds


def test_of_a_run_that_two_machines_made_the_worse_counts_whichever_is_named_first(tmp_path: Path) -> None:
    a = bench(tmp_path / "a", {"good": 0.8}, (0, 1, 2), hardware="one")
    b = bench(tmp_path / "b", {"good": 0.7}, (0, 1, 2), hardware="other")
    for number, folders in enumerate([(a, b), (b, a)]):
        assert "| good | not checked | 0.700" in merged(*folders, out=tmp_path / str(number))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"tile": 64}, "tile"),
        ({"letter_px": 128}, "letter_px"),
        ({"split": {"kind": "blocks", "parts": 3}}, "split"),
        ({"train": {"lr": 0.5}}, "lr of train of settings of depthcnn_tiny in fold .* differ .*0.5"),
    ],
)
def test_benches_that_were_not_made_alike_are_refused_with_what_differs(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"a and b cannot be compared: .*{named}"):
        check_comparable({"a": planned(), "b": planned(**changed)})


def test_rows_that_start_from_weights_and_rows_whose_trials_failed_stand_beside_others(tmp_path: Path) -> None:
    """One bench: what a row starts from and how its trials went is its own, not shared by all."""
    own = {"started": {"start_from": "/x.safetensors", "start_sha256": "ab"}, "tuned": {"failed_trials": 1}}
    out = bench(tmp_path / "a", {"good": 0.8, "started": 0.7, "tuned": 0.6})
    runs = []
    for path in sorted((out / "runs").glob("*/result.json")):
        result = load_result(path)
        spec = result.spec.model_copy(update=own.get(result.spec.label, {}))
        runs.append(spec.run_id)
        if spec.run_id != result.run_id:
            path.parent.rename(out / "runs" / spec.run_id)
        result.model_copy(update={"spec": spec, "run_id": spec.run_id}).save(out / "runs" / spec.run_id)
    BenchRecord(suite=suite(), runs=runs).save(out)
    page = merged(out, out=out)
    assert all(f"| {label} |" in page for label in ("good", "started", "tuned"))


def test_one_row_that_starts_from_two_checkpoints_is_refused() -> None:
    made, specs = planned()
    other = [spec.model_copy(update={"start_sha256": "ab"}) for spec in specs]
    check_comparable({"a": (made, specs), "b": (made, [one.model_copy(update={"start_from": "y"}) for one in specs])})
    with pytest.raises(ValueError, match="settings of depthcnn_tiny"):
        check_comparable({"a": (made, specs), "b": (made, other)})


def test_runs_that_were_scored_in_different_ways_are_not_put_together() -> None:
    made, specs = planned()
    before = [spec.model_copy(update={"scoring": spec.scoring - 1}) for spec in specs]
    with pytest.raises(ValueError, match="a and b cannot be compared: scoring differ"):
        check_comparable({"a": (made, specs), "b": (made, before)})


def test_other_machines_and_places_are_no_difference() -> None:
    made, specs = planned()
    moved = [spec.model_copy(update={"data": ["elsewhere"], "device": "cuda"}) for spec in specs]
    check_comparable({"a": (made, specs), "b": (made, moved)})


def test_of_two_benches_in_one_folder_neither_forgets_what_the_other_has_still_to_run(tmp_path: Path) -> None:
    first, second = (planned(models=[ModelEntry(name=name)]) for name in ("depthcnn", "repmode"))
    keep_record(tmp_path, *first, own_data=False)
    keep_record(tmp_path, *second, own_data=False)
    both = {spec.run_id for _, specs in (first, second) for spec in specs}
    assert set(BenchRecord.load(tmp_path).runs) == both
    keep_record(tmp_path, *first, own_data=False)
    record = BenchRecord.load(tmp_path)
    assert set(record.runs) == both
    assert {entry.name for entry in record.suite.models} == {"depthcnn", "repmode"}


@pytest.mark.parametrize(
    "changed", [{"tile": 64}, {"train": {"lr": 0.5}}, {"models": [ModelEntry(name="depthcnn", train={"lr": 0.5})]}]
)
def test_what_another_bench_planned_otherwise_is_none_of_this_one(tmp_path: Path, changed: dict[str, Any]) -> None:
    keep_record(tmp_path, *planned(), own_data=False)
    made, specs = planned(**changed)
    keep_record(tmp_path, made, specs, own_data=False)
    assert BenchRecord.load(tmp_path).runs == [spec.run_id for spec in specs]


def test_a_finished_run_is_kept_beside_one_that_starts_from_weights(tmp_path: Path) -> None:
    made, specs = planned()
    Result(run_id=specs[0].run_id, status="ok", spec=specs[0]).save(tmp_path / "runs" / specs[0].run_id)
    keep_record(tmp_path, made, specs[:1], own_data=False)
    started = specs[0].model_copy(update={"label": "started", "start_from": "x", "start_sha256": "ab"})
    keep_record(tmp_path, made, [started, *specs[1:]], own_data=False)
    assert BenchRecord.load(tmp_path).runs == [started.run_id, *(spec.run_id for spec in specs[1:]), specs[0].run_id]


def test_a_bench_that_is_given_twice_is_named(tmp_path: Path) -> None:
    a = bench(tmp_path / "a", {"good": 0.8}, (0,))
    with pytest.raises(ValueError, match="a is given 2 times"):
        report_command(ReportOptions((a, a)))
    assert not (a / "leaderboard.md").exists()


def test_a_report_of_nothing_is_one_message() -> None:
    with pytest.raises(ValueError, match="report takes the folder of a finished bench"):
        report_command(ReportOptions(()))


def test_a_folder_without_a_bench_and_one_in_the_way_are_named(tmp_path: Path) -> None:
    a, b = (bench(tmp_path / name, {"good": 0.8}) for name in "ab")
    with pytest.raises(FileNotFoundError, match="holds no bench"):
        report_command(ReportOptions((tmp_path,)))
    with pytest.raises(ValueError, match="a folder of its own"):
        report_command(ReportOptions((a, b)))
    BenchRecord(suite=suite(), runs=["never"]).save(b)
    with pytest.raises(ValueError, match="none of its 1 runs has ended"):
        report_command(ReportOptions((b,)))

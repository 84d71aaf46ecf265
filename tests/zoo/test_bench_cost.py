"""What a configuration costs: measured apart from its runs, once, and its failure is no run's failure."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from tests.zoo.page_example import spec as a_spec
from zoo.bench import energy, expect, runner, worker
from zoo.bench.cost import INFERENCE, STAGES, TRAINING, batches_that_fit, cost_file, measured, predicting, stage_file
from zoo.bench.measure import Repeats, _spread, _timed, measure
from zoo.bench.plan import RunSpec
from zoo.bench.result import Result, write_whole
from zoo.cost import count_step_flops, weightless
from zoo.predict.grid import Axis
from zoo.registry import create_model

TWICE = Repeats(warm_up=1, least=2, most=2, seconds=0)
TRAIN = {"steps": 2, "batch_size": 4, "loss": "bce+dice", "precision": "fp32"}


def spec(**changed: Any) -> RunSpec:
    return a_spec(
        "depthcnn_tiny", "a", (64, 64), **{"options": {"width": 4}, "train": TRAIN, "version": "1", **changed}
    )


def test_inference_is_measured_in_time_memory_and_whole_fragments() -> None:
    found = measure(INFERENCE, spec(), TWICE)
    assert found["batch_seconds_repeats"] == 2 and found["batch_size"] == 4
    assert 0 < found["batch_seconds_low"] <= found["batch_seconds"] <= found["batch_seconds_high"]
    assert found["tiles_per_second"] == pytest.approx(4 / found["batch_seconds"])
    assert found["inference_bytes"] > 0 and found["inference_bytes_reserved"] is None
    assert found["inference_joules_per_1000_tiles"] is None, "a CPU's energy is not known, and not guessed"


@pytest.mark.parametrize(
    "train",
    [{}, {"ema": 0.9, "micro_batch": 2, "sample_losses": True, "degrade": "zmean"}, {"augment": None, "batch_size": 1}],
    ids=["plain", "in parts", "one tile"],
)
def test_training_is_measured_in_time_memory_and_operations(train: dict[str, Any]) -> None:
    size = train.get("batch_size", 4)
    found = measure(TRAINING, spec(train={**TRAIN, **train}), TWICE)
    model = create_model("depthcnn_tiny", depth=8, tile=32, width=4)
    assert found["parameters"] == found["parameters_trained"] == sum(p.numel() for p in model.parameters())
    assert found["step_flops"] == count_step_flops(weightless(model), batch=size)
    assert 2 < found["step_flops"] / found["tile_flops"] / size < 3
    assert found["train_36000_tiles_hours"] == pytest.approx(36000 / size * found["step_seconds"] / 3600)
    assert found["train_bytes"] > 4 * 4 * found["parameters"], "weights, gradients and two moments"
    assert ("batch_in_12_gb" in found) == ("micro_batch" not in train), "only where the whole batch is computed at once"


def test_repeats_end_by_count_and_by_seconds_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []
    monkeypatch.setattr("zoo.bench.measure.time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def work() -> None:
        calls.append(1)
        clock[0] += 0.5

    for most, seconds, expected in ((9, 2.0, 4), (3, 9.0, 3), (9, 0.1, 2)):
        calls.clear()
        times, joules = _timed(work, torch.device("cpu"), Repeats(2, 2, most, seconds))
        assert (times, joules, len(calls)) == ([0.5] * expected, None, expected + 2)


def test_the_spread_is_the_quartiles() -> None:
    assert _spread("s", [3.0, 1.0, 2.0, 5.0, 4.0]) == {"s": 3.0, "s_low": 2.0, "s_high": 4.0, "s_repeats": 5}


def test_a_whole_fragment_is_its_tiles_at_the_suites_overlap() -> None:
    found = predicting(spec(overlap=0.5), 4, 0.1)
    tiles = len(Axis.of(8181, 32, 0.5, "hann").origins) * len(Axis.of(6330, 32, 0.5, "hann").origins)
    assert tiles == 511 * 395
    assert found["kaggle_fragment_hours"] == pytest.approx(tiles / 4 * 0.1 / 3600, rel=1e-4)
    assert found["megapixels_per_second"] == pytest.approx(8181 * 6330 / 1e6 / (tiles / 4 * 0.1), rel=1e-4)
    assert predicting(spec(overlap=0.0), 4, 0.1)["megapixels_per_second"] > 3.9 * found["megapixels_per_second"]


def test_batches_that_fit_grow_with_all_but_weights_gradients_and_moments() -> None:
    found = batches_that_fit(6, 4 * 10**9, 10**9, on_gpu=False)  # half a GB a tile
    assert found == {
        "batch_in_12_gb": int((10.8 - 1) / 0.5),
        "batch_in_16_gb": int((14.4 - 1) / 0.5),
        "batch_in_24_gb": int((21.6 - 1) / 0.5),
        "batch_in_80_gb": int((72 - 1) / 0.5),
    }
    assert batches_that_fit(2, 60 * 10**9, 40 * 10**9, on_gpu=True)["batch_in_12_gb"] == 0


def test_runs_of_one_configuration_share_their_figures_and_others_do_not(tmp_path: Path) -> None:
    one = cost_file(spec(), tmp_path)
    for same in ({"seed": 7}, {"fold": "another"}, {"train": {**TRAIN, "lr": 0.1, "steps": 9, "seed": 3}}):
        assert cost_file(spec(**same), tmp_path) == one
    for other in ({"tile": 64}, {"depth": 4}, {"options": {}}, {"device": "cuda:0"}, {"overlap": 0.25}):
        assert cost_file(spec(**other), tmp_path) != one
    for train in ({"batch_size": 8}, {"precision": "bf16"}, {"ema": 0.9}):
        assert cost_file(spec(train={**TRAIN, **train}), tmp_path) != one


def test_figures_of_another_torch_machine_number_of_threads_or_method_are_not_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [cost_file(spec(), tmp_path)]
    for where, other in (
        ("zoo.bench.cost.metadata.version", lambda name: "0.1"),
        ("zoo.bench.result._processor", lambda: "another processor"),
        ("torch.get_num_threads", lambda: 77),
        ("zoo.bench.cost.METHOD", -1),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, other)
            places.append(cost_file(spec(), tmp_path))
    assert len(set(places)) == 5
    assert cost_file(spec(), tmp_path) == places[0]


def test_a_configuration_is_measured_once_and_what_failed_is_noted_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answers: dict[str, Any] = {INFERENCE: {"figures": {"tiles_per_second": 5.0}}, TRAINING: None}

    def answer(stage: str, folder: Path) -> int:
        asked.append(stage)
        if answers[stage] is not None:
            write_whole(folder / stage_file(stage), json.dumps(answers[stage]))
        return 0 if "figures" in (answers[stage] or {}) else -9

    monkeypatch.setattr(runner, "_worker", answer)
    folders = [tmp_path / "runs" / f"run{seed}" for seed in range(3)]
    for seed, folder in enumerate(folders):
        folder.mkdir(parents=True)
        runner._measure(spec(seed=seed), folder)
        if seed == 0:
            figures, notes = measured(folder)
            assert figures == {"tiles_per_second": 5.0}
            (note,) = notes
            assert note.startswith(f"{TRAINING}: not measured: killed by the system")
            answers[TRAINING] = {"figures": {"step_seconds": 0.1}}
    assert asked == [*STAGES, TRAINING]
    assert [measured(folder) for folder in folders[1:]] == [({"tiles_per_second": 5.0, "step_seconds": 0.1}, [])] * 2


def test_a_stage_of_the_cost_that_fails_leaves_its_reason_and_no_result(tmp_path: Path) -> None:
    write_whole(tmp_path / worker.SPEC_FILE, spec(options={"widht": 4}).model_dump_json())
    assert worker.main(TRAINING, tmp_path) == 2
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["cost-training.json", "spec.json"]
    _, notes = measured(tmp_path)
    assert "unknown option 'widht'" in notes[0]


RATES = {"step_seconds": 0.5, "step_flops": 10**9, "megapixels_per_second": 0.01}


@pytest.mark.parametrize(
    ("budget", "seconds"),
    [({"steps": 6}, 3.0), ({"tiles_seen": 9}, 1.5), ({"minutes": 2}, 120.0), ({"flops": 2.5e9}, 1.5)],
    ids=lambda value: str(value),
)
def test_a_run_is_expected_to_take_its_budget_and_its_prediction(budget: dict[str, Any], seconds: float) -> None:
    run = spec(train={"batch_size": 4, **budget}, calibration_rects={"a": [(0, 50, 0, 20), (60, 70, 0, 100)]})
    pixels = 50 * 20 + 10 * 100 + 64 * 64
    assert expect._seconds(run, RATES) == pytest.approx(seconds + pixels / 1e6 / 0.01)
    assert expect._by(spec(train={"flops": 1e9}), {**RATES, "step_flops": None}, expect.COST).seconds is None


def test_expected_time_is_told_by_earlier_runs_then_by_cost_then_by_a_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, wall in enumerate((10.0, 30.0, 20.0)):
        run = spec(seed=seed)
        done = Result(run_id=run.run_id, status="ok", spec=run, cost={"wall_seconds": wall})
        done.save(tmp_path / "runs" / run.run_id)
    failed = spec(seed=4)
    Result(run_id=failed.run_id, status="failed", spec=failed).save(tmp_path / "runs" / failed.run_id)
    measured_one = spec(tile=64)
    place = cost_file(measured_one, tmp_path)
    place.parent.mkdir()
    write_whole(place, json.dumps({INFERENCE: {"megapixels_per_second": 0.01}, TRAINING: RATES}))
    tries: list[int] = []

    def once(run: RunSpec) -> dict[str, Any]:
        tries.append(run.depth)
        return RATES if run.depth == 2 else {"reason": "no room"}

    monkeypatch.setattr(expect, "_try", once)
    runs = [
        spec(),
        failed,
        measured_one,
        spec(depth=2),
        spec(depth=2, seed=1),
        spec(depth=3),
        a_spec("allink", "a", (64, 64)),
    ]
    expect.print_plan(runs, tmp_path, Console(width=150), here=True)
    said = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1] for line in said[:7]] == [
        "finished before, kept",
        "about 20 s",
        "about 1 s",
        "about 1 s",
        "about 1 s",
        "not known: no room",
        "a floor: seconds",
    ]
    assert (
        "expected: 24 s one after another (1 by earlier runs of the configuration; 1 by its measured cost; 2 by"
        in said[8]
    )
    assert tries == [2, 3], "one try a configuration"
    (elsewhere,) = expect.expect([spec(depth=2)], tmp_path, here=False)
    assert elsewhere == expect.Expected(None, "not known: its machine is not this one")


class Driver:
    """An NVML whose counter moves by 250 J a reading."""

    def __init__(self, told: int = 0):
        self.told, self.used = told, 1000

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, board: bytes, handle: Any) -> int:
        return 0 if board == b"GPU-12-ab" else 6

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, used: Any) -> int:
        self.used += 250_000
        ctypes.cast(used, ctypes.POINTER(ctypes.c_ulonglong))[0] = self.used
        return self.told


def test_energy_is_what_the_driver_tells_of_this_board_and_else_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12-ab"))
    driver = Driver()
    monkeypatch.setattr(energy, "_nvml", lambda: driver)
    assert [energy.joules(gpu), energy.joules(gpu)] == [251, 501]
    assert energy.joules(torch.device("cpu")) is None
    monkeypatch.setattr(energy, "_nvml", lambda: Driver(told=3))
    assert energy.joules(gpu) is None, "the driver does not tell"
    monkeypatch.setattr(energy, "_nvml", lambda: None)
    assert energy.joules(gpu) is None, "there is no driver"
    monkeypatch.setattr(energy, "_nvml", lambda: driver)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="MIG"))
    assert energy.joules(gpu) is None

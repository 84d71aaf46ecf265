"""Training learns, repeats itself exactly, stops cleanly, and says what went wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from torch import Tensor, nn

from data_recipes.fragment import open_fragments
from data_recipes.regions import Rect
from data_recipes.sampling import grid_table
from data_recipes.tiles import TileDataset, fit_contract
from zoo import create_model
from zoo.checkpoint import load_checkpoint
from zoo.cost import count_step_flops, weightless
from zoo.memory import OutOfMemoryError
from zoo.models.base import Heads, InkModel
from zoo.models.depthcnn import DepthCNN
from zoo.train import loop
from zoo.train.config import BUDGET, TrainConfig, load_train_config
from zoo.train.loop import TrainingDiverged, train
from zoo.train.progress import Progress
from zoo.train.state import states

DEPTH, SIDE, TILE = 4, 128, 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fragment whose ink is bright in the upper layers: easily learnt."""
    folder = tmp_path_factory.mktemp("bright")
    (folder / "layers").mkdir()
    rng = np.random.default_rng(0)
    ink = np.kron(rng.random((4, 4)) < 0.5, np.ones((SIDE // 4, SIDE // 4))).astype(np.uint8)
    for number in range(DEPTH):
        layer = rng.normal(90 + 80 * ink * (number < 2), 12).clip(0, 255).astype(np.uint8)
        tifffile.imwrite(folder / "layers" / f"{number:02}.tif", layer)
    tifffile.imwrite(folder / f"{folder.name}_inklabels.tif", ink * 255)
    (folder / "fragment.yaml").write_text("name: bright\ncenter_layer: 2\ndirection: forward\nvoxel_um: 7.91\n")
    return folder


@pytest.fixture(scope="module")
def dataset(folder: Path) -> TileDataset:
    fragments = open_fragments([folder])
    fragment, rects = fragments["bright"], (Rect(0, SIDE, 0, SIDE),)
    contract = fit_contract(fragments, {"bright": rects}, depth=DEPTH, tile=TILE)
    args = fragment.label, fragment.papyrus, fragment.supervised
    return TileDataset(fragments, grid_table("bright", rects, *args, tile=TILE, stride=TILE // 2), contract)


def small_model(**options) -> InkModel:
    torch.manual_seed(0)
    return create_model("depthcnn_tiny", depth=DEPTH, tile=TILE, width=4, **options)


def config(**fields) -> TrainConfig:
    defaults = {"loss": "bce+dice", "steps": 3, "batch_size": 4, "precision": "fp32"}
    if {*BUDGET} & {*fields}:
        del defaults["steps"]
    return load_train_config(**{**defaults, **fields})


def run(dataset: TileDataset, out: Path, model: InkModel | None = None, **fields) -> tuple[InkModel, loop.TrainReport]:
    model = model or small_model()
    options = {"width": 4}
    return model, train(model, dataset, config(**fields), device="cpu", out=out, options=options, overwrite=True)


def log_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_easy_fragment_is_learnt(dataset: TileDataset, tmp_path: Path, precision) -> None:
    seen: list[Progress] = []
    model = small_model()
    settings = config(steps=30, batch_size=8, lr=1e-2, precision=precision, log_every=5)
    report = train(model, dataset, settings, device="cpu", out=tmp_path, on_progress=seen.append, options={"width": 4})
    assert report.steps == 30
    assert report.samples == 240
    assert report.losses["loss"] < 0.75 * report.curve[0][1]
    assert set(report.losses) == {"loss", "bce", "dice"}
    assert report.precision == precision
    assert report.peak_bytes > 0
    assert [entry["step"] for entry in log_of(tmp_path)] == [1, *range(5, 31, 5)]
    assert set(log_of(tmp_path)[0]) == {"step", "loss", "bce", "dice", "lr", "grad_norm", "seconds"}
    assert seen[-1].share == 1
    assert [now.step for now in seen] == list(range(1, 31))
    loaded = load_checkpoint(report.checkpoint)
    assert loaded.config["train"]["steps"] == 30
    assert loaded.contract == dataset.contract
    for key, value in loaded.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


def test_bf16_is_used_inside_the_heads(dataset: TileDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, kinds = small_model(), []
    heads = DepthCNN.heads

    def spy(self: DepthCNN, volume: Tensor, task: Tensor | None = None) -> Heads:
        answer = heads(self, volume, task)
        kinds.append(answer.logits[0].dtype)
        return answer

    monkeypatch.setattr(DepthCNN, "heads", spy)
    for precision in ("bf16", "fp32"):
        run(dataset, tmp_path, model, steps=1, precision=precision)
    assert kinds == [torch.bfloat16, torch.float32]


def test_the_same_seed_gives_the_same_weights_whatever_came_before(dataset: TileDataset, tmp_path: Path) -> None:
    first, report = run(dataset, tmp_path)
    torch.rand(17)
    np.random.default_rng().random(3)
    second, again = run(dataset, tmp_path)
    other, _ = run(dataset, tmp_path, seed=1)
    assert report.curve == again.curve
    state = second.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in first.state_dict().items())
    assert any(not torch.equal(value, state[key]) for key, value in other.state_dict().items())


def test_reading_processes_change_nothing(dataset: TileDataset, tmp_path: Path) -> None:
    _, alone = run(dataset, tmp_path, steps=2, num_workers=0)
    _, helped = run(dataset, tmp_path, steps=2, num_workers=1)
    assert alone.curve == helped.curve


def test_a_budget_in_minutes_ends_in_time_with_the_rate_at_its_end(dataset: TileDataset, tmp_path: Path) -> None:
    _, report = run(dataset, tmp_path, minutes=2 / 60)
    assert 2 <= report.seconds < 2 + 10 * report.step_seconds + 1
    assert log_of(tmp_path)[-1]["step"] == report.steps
    assert log_of(tmp_path)[-1]["lr"] < 0.5 * 1e-3


@pytest.mark.parametrize("name", ["tiles_seen", "flops"])
def test_a_budget_in_tiles_or_flops_ends_with_the_step_that_reaches_it(
    dataset: TileDataset, tmp_path: Path, name: str
) -> None:
    _, by_steps = run(dataset, tmp_path / "steps", steps=5)
    a_step = 4  # tiles
    if name == "flops":
        a_step = count_step_flops(weightless(small_model()), batch=4)
    _, report = run(dataset, tmp_path / name, **{name: int(4.5 * a_step)})
    assert report.steps == 5 and report.samples == by_steps.samples
    rates = [line["lr"] for line in log_of(tmp_path / name)]
    assert rates[-1] < 0.5 * 1e-3, "the schedule is the budget's"


def test_degraded_input_is_what_the_model_is_trained_on(dataset: TileDataset, tmp_path: Path, monkeypatch) -> None:
    seen: list[Tensor] = []
    heads = DepthCNN.heads

    def spy(self: DepthCNN, volume: Tensor, task: Tensor | None = None) -> Heads:
        seen.append(volume)
        return heads(self, volume, task)

    monkeypatch.setattr(DepthCNN, "heads", spy)
    run(dataset, tmp_path, steps=1, degrade="zmean")
    assert torch.equal(seen[0], seen[0][:, :, :1].expand_as(seen[0]))


def test_a_loss_that_is_not_finite_names_the_tiles(dataset: TileDataset, tmp_path: Path) -> None:
    model = small_model()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match=r"loss.* not finite in step 1; .*bright \d+,\d+; bright"):
        run(dataset, tmp_path, model)


def test_running_out_of_memory_says_what_to_change(dataset: TileDataset, tmp_path: Path, monkeypatch) -> None:
    def exhausted(*_: object) -> Heads:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(DepthCNN, "heads", exhausted)
    with pytest.raises(OutOfMemoryError, match="training depthcnn_tiny; use a smaller batch"):
        run(dataset, tmp_path)


def test_what_cannot_be_trained_is_refused(dataset: TileDataset, tmp_path: Path) -> None:
    none = TileDataset({"bright": dataset.fragments[0]}, dataset.table[:0], dataset.contract)
    with pytest.raises(ValueError, match="not one tile"):
        run(none, tmp_path)
    with pytest.raises(ValueError, match="built for 7"):
        run(dataset, tmp_path, create_model("depthcnn_tiny", depth=7, tile=TILE))
    frozen = small_model().requires_grad_(False)
    with pytest.raises(ValueError, match="not one parameter"):
        run(dataset, tmp_path, frozen)


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 1), (signal.SIGTERM, 0)])
def test_a_signal_keeps_what_was_trained(folder: Path, tmp_path: Path, number: signal.Signals, workers: int) -> None:
    command = [sys.executable, "-m", "zoo.train", "depthcnn_tiny", "--data", str(folder), "--out", str(tmp_path)]
    command += ["--recipe", "grid", "--steps", "100000", "--batch-size", "2", "--tile", "32", "--loss", "bce"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command += ["--workers", str(workers)]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    running = subprocess.Popen(command, env=environment, **pipes)  # type: ignore[call-overload]
    try:
        log, patience = tmp_path / "log.jsonl", time.monotonic() + 120
        while not (log.exists() and log.stat().st_size) and running.poll() is None and time.monotonic() < patience:
            time.sleep(0.05)
        os.killpg(running.pid, number)  # as a terminal's Ctrl-C, to every process of the command
        _, told = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130, told
    assert told.splitlines()[-1].startswith("interrupted after step ")
    assert told.splitlines()[-1].endswith("the same command with --resume goes on")
    assert load_checkpoint(tmp_path / "last.safetensors").name == "depthcnn_tiny"
    assert load_checkpoint(tmp_path / "last.safetensors").config["train"]["steps"] == 100000
    assert "Traceback" not in told


@pytest.mark.parametrize("slow", ["train", "validation"])
def test_a_sigterm_that_takes_the_reading_processes_too_keeps_what_was_trained(
    folder: Path, tmp_path: Path, slow: str
) -> None:
    command = [sys.executable, "-m", "tests.zoo.slow_tiles", str(folder), str(tmp_path), slow]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root, pipes = Path(__file__).resolve().parents[2], {"stderr": subprocess.PIPE, "text": True}
    running = subprocess.Popen(command, cwd=root, env=environment, start_new_session=True, **pipes)  # type: ignore[call-overload]
    try:
        log, patience = tmp_path / "log.jsonl", time.monotonic() + 120
        while not (log.exists() and log.stat().st_size) and running.poll() is None and time.monotonic() < patience:
            time.sleep(0.02)
        time.sleep(3 if slow == "validation" else 0)  # the second step is soon done, and its validation takes long
        os.killpg(running.pid, signal.SIGTERM)  # while the next tiles are waited for
        _, told = running.communicate(timeout=120)
    finally:
        running.kill()
    assert told.splitlines()[-1].startswith("zoo.train.interrupt.TrainingInterrupted: interrupted after step ")
    assert len(states(tmp_path / "state")) == 1
    assert (tmp_path / "last.safetensors").exists()
    if slow == "validation":
        assert "validation_ap" in (tmp_path / "log.jsonl").read_text()  # it was finished, as in a run that goes on


def test_signal_handlers_are_put_back(dataset: TileDataset, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    run(dataset, tmp_path, steps=1)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_model_and_the_augmentation_draw_apart(dataset: TileDataset, tmp_path: Path, monkeypatch) -> None:
    drawn: list[int] = []

    def spy(batch: dict, generator: torch.Generator, _settings: object, **_: object) -> dict:
        drawn.extend((generator.initial_seed(), torch.initial_seed()))
        return batch

    monkeypatch.setattr(loop, "augment", spy)
    run(dataset, tmp_path, steps=2)
    assert len(set(drawn)) == 4


def test_a_foreign_model_is_trained_in_the_precision_it_reports(dataset: TileDataset, tmp_path: Path) -> None:
    model = small_model()
    model.encoder[0][0] = nn.Conv3d(1, 4, 3, stride=(1, 2, 2), padding=1)  # pyright: ignore
    with pytest.warns(UserWarning, match=r"encoder\.0\.0 is an nn\.Conv3d"):
        report = train(model, dataset, config(steps=1, precision="bf16"), device="cpu", out=tmp_path)
    assert report.precision == "fp32"

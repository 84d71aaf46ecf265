"""The bench from end to end, as a person runs it: in processes of its own, on a small phantom."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

SUITE = """
about: a test
data: ["phantom:dipole:3:384x640"]
split: {kind: blocks, parts: 2, calibration_parts: 2}
models: [{name: depthcnn}]
floors: [allink, layout]
folds: [0]
tile: 32
depth: 8
samples: 40
letter_px: 32
labels_turned: true
train: {steps: 2, batch_size: 4, loss: bce, precision: fp32}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    (folder / "small.yaml").write_text(SUITE)
    return folder


def start(home: Path, *options: str) -> tuple[list[str], dict[str, Any]]:
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join([str(root), str(Path(__file__).parent)])
    environment = {**os.environ, "INKZOO_CACHE": str(home / "cache"), "PYTHONPATH": paths}
    return [sys.executable, "-m", "zoo.bench", *options], {"cwd": home, "env": environment, "text": True}


def bench(home: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command, settings = start(home, *options)
    return subprocess.run(command, **settings, capture_output=True, timeout=300)


def test_a_bench_ranks_skips_what_is_done_and_goes_on_after_a_model_that_fails(home: Path) -> None:
    options = ["--suite", "small.yaml", "--out", "out", "--models", "depthcnn,hungry_model:build_hungry"]
    done = bench(home, *options)
    assert done.returncode == 1, done.stderr  # one row failed
    board = json.loads((home / "out/leaderboard.json").read_text())
    rows = {row["label"]: row for row in board["rows"]}
    assert [entry["label"] for entry in board["suite"]["models"]] == ["depthcnn_tiny", "hungry_model:build_hungry"]
    assert "budget: 2 steps of 4 tiles a run" in board["caption"]
    hungry = "hungry_model:build_hungry"
    assert set(list(rows)[-2:]) == {hungry, f"{hungry}, labels turned"}
    assert rows["depthcnn_tiny, labels turned"]["control"]
    assert rows["hungry_model:build_hungry"]["status"] == "out_of_memory"
    assert rows["depthcnn_tiny"]["status"] == "ok"
    assert rows["depthcnn_tiny"]["train_mb"] > 0
    assert rows["depthcnn_tiny"]["inference_mb"] > 0
    for name in ("leaderboard.md", "leaderboard.csv", "quality_memory.png"):
        assert (home / "out" / name).stat().st_size > 100
    assert list((home / "out").glob("panel_*.png"))

    results = {path: json.loads(path.read_text()) for path in (home / "out/runs").glob("*/result.json")}
    ((result, content),) = ((p, c) for p, c in results.items() if c["spec"]["label"] == "depthcnn_tiny")
    assert content["controls"]["leak"]["overlap_px"] == 0
    assert content["times_scored"] == 1
    assert content["contract"]["depth"] == 8
    (saved,) = result.parent.glob("map_*.npy")
    assert np.load(saved).max() <= 1

    before = result.stat().st_mtime_ns
    again = bench(home, *options)
    assert "finished before, kept" in again.stdout
    assert result.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--models", "repmod"], ["repmod", "repmode"]),
        (["--models", "sam", "--tile", "50"], ["tile 50", "nearest"]),
        (["--depth", "0"], ["depth"]),
        (["--suite", "quik"], ["quik", "quick"]),
        (["--data", "nowhere"], ["nowhere"]),
        (["--recipe", "edge"], ["edge", "edges_buckets_void"]),
        (["--samples", "-1"], ["samples"]),
        (["--letter-px", "100"], ["letter_px", "16"]),
        (["--loss", "focall"], ["focall", "focal"]),
        (["--seeds", "a"], ["--seeds", "whole numbers"]),
        (["--steps", "5", "--minutes", "1"], ["--steps 5 and --minutes 1", "--tiles-seen"]),
        (["--tiles-seen", "9", "--flops", "1e9", "--steps", "2"], ["--steps 2 and --tiles-seen 9 and --flops"]),
        (["--device", "cuda:99"], ["cuda:99", "cpu"]),
        (["--out", "small.yaml"], ["small.yaml", "folder"]),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(home: Path, options: list[str], words: list[str]) -> None:
    given = options if "--suite" in options else ["--suite", "small.yaml", *options]
    done = bench(home, "--out", "mistakes", *given)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def test_a_terminated_bench_stops_its_worker_keeps_the_checkpoint_and_says_how_to_go_on(home: Path) -> None:
    command, settings = start(home, "--suite", "small.yaml", "--out", "stopped", "--steps", "100000")
    with subprocess.Popen(command, **settings, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        for line in process.stderr:  # the worker's first sign of training
            if "step" in line:
                break
        process.send_signal(signal.SIGTERM)
        said = process.stdout.read()
        assert process.wait(60) == 130
    assert "same command again" in said
    (folder,) = (home / "stopped/runs").glob("depthcnn_tiny-*")
    assert (folder / "last.safetensors").stat().st_size > 100_000
    assert not (folder / "result.json").exists()


def test_training_on_a_test_phantom_is_refused(home: Path) -> None:
    done = bench(home, "--suite", "small.yaml", "--data", "phantom:dipole:1003:384x640", "--out", "refused")
    assert done.returncode == 2
    assert "test phantom" in done.stderr


def test_list_shows_suites_and_models(home: Path) -> None:
    done = bench(home, "--list")
    assert done.returncode == 0
    for name in ("quick", "repmode_tiny", "sam_vit_b"):
        assert name in done.stdout


def test_a_fragment_without_a_label_is_named_as_taking_no_part(home: Path) -> None:
    bare = home / "bare" / "layers"
    bare.mkdir(parents=True)
    for layer in range(8):
        tifffile.imwrite(bare / f"{layer:02}.tif", np.full((64, 64), 9, np.uint8))
    done = bench(home, "--suite", "small.yaml", "--data", "phantom:dipole:3:384x640", "bare", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "takes no part: no ink label" in " ".join(done.stdout.split())

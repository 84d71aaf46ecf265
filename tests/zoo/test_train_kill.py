"""Killed with -9 at random moments, a run still ends with the weights of one that nobody touched."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from zoo.checkpoint import load_checkpoint
from zoo.train.state import states

KILLS, STEPS = 20, 240
SETTINGS = "loss: bce\nema: 0.9\nlog_every: 5\ncheckpoint_steps: 2\n"


def start(folder: Path, out: str) -> subprocess.Popen[str]:
    (folder / "settings.yaml").write_text(SETTINGS)
    command = [
        sys.executable,
        "-m",
        "zoo.train",
        "depthcnn_tiny",
        "--out",
        out,
        "--resume",
        "--config",
        "settings.yaml",
    ]
    command += ["--data", "phantom:dipole:3:192x320", "--tile", "32", "--depth", "4", "--samples", "64"]
    command += ["--batch-size", "2", "--steps", str(STEPS), "--precision", "fp32", "--device", "cpu"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "INKZOO_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(folder: Path, out: str) -> None:
    running = start(folder, out)
    _, told = running.communicate(timeout=600)
    assert running.returncode == 0, told


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_at_twenty_random_moments_a_run_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    finish(tmp_path, "whole")
    whole = load_checkpoint(tmp_path / "whole/last.safetensors").model.state_dict()
    chance, kills, reached = random.Random(0), 0, set()
    for attempt in range(KILLS):
        out = f"cut{attempt}"
        while kills < KILLS:
            running = start(tmp_path, out)
            known = {path.name for path in states(tmp_path / out / "state")}
            patience = time.monotonic() + 120
            while running.poll() is None and time.monotonic() < patience:  # importing is not training
                if {path.name for path in states(tmp_path / out / "state")} - known:
                    break
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.5))
            ended = running.poll() is not None
            running.send_signal(signal.SIGKILL)
            running.communicate()
            if ended:
                break  # before it could be killed
            kills += 1
            reached |= {path.name for path in states(tmp_path / out / "state")}
        finish(tmp_path, out)
        cut = load_checkpoint(tmp_path / out / "last.safetensors").model.state_dict()
        assert cut.keys() == whole.keys()
        for key, value in whole.items():
            assert torch.equal(value, cut[key]), (out, key)
        assert not list((tmp_path / out).rglob("*.partial")), "a killed write leaves nothing behind in the end"
        if kills == KILLS:
            break
    assert kills == KILLS
    assert len(reached) > KILLS / 2, "the kills were spread over the run"

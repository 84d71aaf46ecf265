"""Killed with -9 at random moments and gone on with, a map is byte for byte that of a run that nobody touched."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zarr

from tests.zoo.segments import tree, write_checkpoint, write_segment

KILLS = 20
ROOT = Path(__file__).resolve().parents[2]


def start(folder: Path, out: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "zoo.predict", "segment", "a.safetensors", out]
    command += ["--device", "cpu", "--shard", "256", "--stride", "8", *(options or ("--also", "tif", "mask"))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(folder: Path, out: str, *options: str) -> None:
    running = start(folder, out, *options)
    _, told = running.communicate(timeout=600)
    assert running.returncode == 0, told


def files_of(folder: Path, out: str) -> dict[str, bytes]:
    """All that a map's command left, under names without the map's own."""
    beside = {path.name.removeprefix(out): path.read_bytes() for path in folder.glob(f"{out}*") if path.is_file()}
    return {**tree(folder / f"{out}.zarr"), **beside}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_at_twenty_random_moments_the_map_is_the_same_byte_for_byte(tmp_path: Path) -> None:
    write_segment(tmp_path / "segment", 520, 520)
    write_checkpoint(tmp_path / "a.safetensors")
    finish(tmp_path, "whole.zarr")
    whole = files_of(tmp_path, "whole")
    assert zarr.open_array(tmp_path / "whole.zarr/0", mode="r")[:].std() > 0.3  # pyright: ignore
    chance, kills, moments = random.Random(0), 0, set()
    for attempt in range(KILLS):
        out = f"cut{attempt}"
        done = tmp_path / f"{out}.zarr.partial/.inkzoo/done"

        def shards(done: Path = done) -> int:
            return len(list(done.iterdir())) if done.is_dir() else 0

        while kills < KILLS:
            running, known = start(tmp_path, f"{out}.zarr"), shards()
            patience = time.monotonic() + 120
            while running.poll() is None and time.monotonic() < patience and shards() <= known:
                time.sleep(0.005)  # importing is not predicting
            time.sleep(chance.uniform(0, 0.6))
            ended = running.poll() is not None
            running.send_signal(signal.SIGKILL)
            running.communicate()
            if ended:
                break  # before it could be killed
            kills += 1
            moments.add(shards())
        if not (tmp_path / f"{out}.zarr").exists():
            finish(tmp_path, f"{out}.zarr")
        else:  # killed at the very end: the same command tidies up and says that the map is there
            again = start(tmp_path, f"{out}.zarr")
            _, told = again.communicate(timeout=300)
            assert (again.returncode, "remove them or choose another name" in told) == (2, True)
        assert files_of(tmp_path, out) == whole
        if kills == KILLS:
            break
    assert kills == KILLS
    assert len(moments) > 1


@pytest.mark.slow
def test_four_parts_in_four_processes_at_once_are_the_map_of_one(tmp_path: Path) -> None:
    write_segment(tmp_path / "segment", 520, 520)
    write_checkpoint(tmp_path / "a.safetensors")
    finish(tmp_path, "whole.zarr")
    parts = [start(tmp_path, "shared.zarr", "--num-parts", "4", "--part-id", str(part)) for part in range(4)]
    for running in parts:
        _, told = running.communicate(timeout=250)
        assert running.returncode == 0, told
    command = [sys.executable, "-m", "zoo.predict", "reduce", "shared.zarr", "--also", "tif", "mask"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    assert files_of(tmp_path, "shared") == files_of(tmp_path, "whole")

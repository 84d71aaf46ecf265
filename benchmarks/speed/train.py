"""How fast the training loop steps and how much memory it takes, beside a plain loop that one would write by hand.

    python benchmarks/speed/train.py [--models repmode,sam,unet3plus] [--steps 12] [--rounds 3]

The peer is the loop of a notebook: a DataLoader over the same tiles in the same order, fp32, AdamW, the same model and
loss, nothing else. Ours runs as `python -m zoo.train` does, with its default precision and layout, its augmentation,
its log and its checks. Either runs in a process of its own, in turn and several rounds; the ratio is of medians. On a
CPU seconds are processor seconds of all threads, which other work on the machine does not stretch; on a GPU they are
those of the clock. Memory is the peak growth of anonymous resident memory on a CPU, the allocator's peak on a GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch

LOOPS = ("ours", "plain")
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default="repmode,sam,unet3plus")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("LOOP", "MODEL"), help="measure one loop here and print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options.steps)))
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU"
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}; {BATCH} tiles a step")
    heads = ("plain s/step", "ours s/step", "speed-up", "plain MB", "ours MB", "memory")
    print(f"{'model':<20}" + "".join(f"{head:>14}" for head in heads))
    for family in options.models.split(","):
        found: dict[str, list[dict[str, Any]]] = {loop: [] for loop in LOOPS}
        for _ in range(options.rounds):
            for loop in LOOPS:
                command = [sys.executable, __file__, "--one", loop, family, "--steps", str(options.steps)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[loop].append(json.loads(done.stdout.splitlines()[-1]))
        seconds = {loop: median(run["seconds"] for run in runs) for loop, runs in found.items()}
        peak = {loop: median(run["bytes"] for run in runs) for loop, runs in found.items()}
        cells = (
            f"{seconds['plain']:.3f}",
            f"{seconds['ours']:.3f}",
            f"{seconds['plain'] / seconds['ours']:.2f}×",
            f"{peak['plain'] / 1e6:.0f}",
            f"{peak['ours'] / 1e6:.0f}",
            f"{peak['ours'] / peak['plain']:.2f}×",
        )
        print(f"{found['ours'][0]['name']:<20}" + "".join(f"{cell:>14}" for cell in cells), flush=True)


def measure(loop: str, family: str, steps: int) -> dict[str, Any]:
    """Median seconds a step, the first three apart, and peak bytes."""
    from data_recipes.fragment import open_fragments
    from data_recipes.recipe import load_recipe
    from data_recipes.regions import whole
    from data_recipes.sampling import build_table
    from data_recipes.tiles import TileDataset, fit_contract
    from zoo import create_model, resolve_name
    from zoo.device import resolve_device

    device = resolve_device()
    name = resolve_name(family, device.type)
    fragments = open_fragments(["phantom:dipole:1"])
    region = {key: (whole(fragment.shape),) for key, fragment in fragments.items()}
    contract = fit_contract(fragments, region, depth=16, tile=96)
    table, _ = build_table(fragments, region, load_recipe("random").with_(tile=96, samples=BATCH * steps), seed=0)
    dataset = TileDataset(fragments, table, contract)
    torch.manual_seed(0)
    model = create_model(name, depth=16, tile=96)
    run = ours if loop == "ours" else plain
    return {"name": name, **run(model, dataset, device, steps)}


def ours(model: Any, dataset: Any, device: torch.device, steps: int) -> dict[str, float]:
    from zoo.train.config import TrainConfig
    from zoo.train.loop import train

    times: list[float] = []
    with tempfile.TemporaryDirectory() as out:
        config = TrainConfig(steps=steps, batch_size=BATCH, seed=0)
        report = train(
            model, dataset, config, device=device, out=Path(out), on_progress=lambda now: times.append(clock(device))
        )
    return {"seconds": after_warm_up(times), "bytes": report.peak_bytes}


def plain(model: Any, dataset: Any, device: torch.device, steps: int) -> dict[str, float]:
    from torch.utils.data import DataLoader

    from zoo.losses import make_loss
    from zoo.memory import PeakMemory
    from zoo.train.batches import Batches

    order = list(islice(Batches(len(dataset), BATCH, seed=0), steps))
    times, loss_of = [], make_loss()  # not inside: it imports a library
    with PeakMemory(device, model) as peak:
        model.to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for batch in DataLoader(dataset, batch_sampler=order):
            optimizer.zero_grad()
            heads = model.heads(batch["volume"].to(device))
            loss, _ = loss_of(heads, batch["label"].to(device), batch["mask"].to(device))
            loss.backward()
            optimizer.step()
            loss.item()  # as every notebook prints it
            times.append(clock(device))
    return {"seconds": after_warm_up(times), "bytes": peak.bytes}


def clock(device: torch.device) -> float:
    """Seconds: of the clock on a GPU, of the processor, all threads together, on a CPU."""
    return time.perf_counter() if device.type == "cuda" else time.process_time()


def after_warm_up(ends: list[float], skipped: int = 3) -> float:
    """Median step of a list of times at which steps ended."""
    return median(later - earlier for earlier, later in zip(ends[skipped:], ends[skipped + 1 :], strict=False))


if __name__ == "__main__":
    main()

"""The peak that the planner of training batches expects, beside that of the training it planned.

    python benchmarks/speed/planner.py [--steps 20] [--device auto] [MODEL:TILE:MB …]

For each model: a plan of a step of 16 tiles within so many MB (the weights among them), then `train` with it for some
steps on tiles of a phantom, in a fresh process. The planner's probe has seen neither the phantom nor that process.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from data_recipes.fragment import open_fragments
from data_recipes.regions import whole
from data_recipes.sampling import grid_table
from data_recipes.tiles import TileDataset, fit_contract
from zoo import create_model, model_card
from zoo.device import resolve_device
from zoo.train.config import TrainConfig, load_train_config
from zoo.train.loop import train
from zoo.train.plan import plan_batches

PHANTOM = "phantom:crackle:0:512"
# two whose whole batch fits, two whose batch does not
DEFAULT = ("repmode_tiny:96:900", "depthcnn_tiny:96:600", "sam_tiny:96:450", "unet3plus_tiny:96:200")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", default=DEFAULT, metavar="MODEL:TILE:MB")
    parser.add_argument("--batch", type=int, default=16, help="tiles a step")
    parser.add_argument("--steps", type=int, default=20, help="of the training that is measured")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--measured", help=argparse.SUPPRESS)  # one training, its settings as JSON
    options = parser.parse_args()
    device = resolve_device(options.device)
    if options.measured:
        name, depth, tile, settings = json.loads(options.measured)
        print(peak_of_training(name, depth, tile, settings, device))
        return
    print(f"{_hardware(device)}; Python {platform.python_version()}, torch {torch.__version__}")
    for case in options.cases:
        name, tile, budget = case.split(":")[0], int(case.split(":")[1]), int(case.split(":")[2]) * 10**6
        depth = model_card(name).depth
        said: list[str] = []
        began = time.perf_counter()
        config = load_train_config(batch_size=options.batch, steps=options.steps)
        model = create_model(name, depth=depth, tile=tile)
        plan = plan_batches(model, config, budget, device=device, name=name, say=said.append)
        seconds = time.perf_counter() - began
        arguments = json.dumps([name, depth, tile, plan.config.model_dump(mode="json")])
        command = [sys.executable, __file__, "--device", options.device, "--measured", arguments]
        measured = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        print(f"\n{name}, {depth} layers of {tile} px, within {budget / 1e6:.0f} MB; planned in {seconds:.0f} s")
        print(*(f"  {line}" for line in said if not line.startswith(("measuring", "trying"))), sep="\n")
        print(
            f"  expected {plan.peak_bytes / 1e6:.0f} MB, measured {measured / 1e6:.0f} MB over {options.steps} steps: "
            f"{plan.peak_bytes / measured - 1:+.1%} off; measured {measured / budget:.0%} of the budget",
            flush=True,
        )


def peak_of_training(name: str, depth: int, tile: int, settings: dict, device: torch.device) -> int:
    """Peak bytes of a training on the phantom, with reading and everything else that a training does."""
    fragments = open_fragments([PHANTOM])
    fragment = next(iter(fragments.values()))
    rects = (whole(fragment.shape),)
    contract = fit_contract(fragments, {fragment.name: rects}, depth=depth, tile=tile)
    planes = fragment.label, fragment.papyrus, fragment.supervised
    table = grid_table(fragment.name, rects, *planes, tile=tile, stride=tile // 2)
    torch.manual_seed(0)
    model = create_model(name, depth=depth, tile=tile)
    with tempfile.TemporaryDirectory() as out:
        config = TrainConfig.model_validate(settings)
        tiles = TileDataset(fragments, table, contract)
        return train(model, tiles, config, device=device, out=Path(out)).peak_bytes


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()

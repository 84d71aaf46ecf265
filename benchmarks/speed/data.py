"""How much of a training step is lost to reading tiles.

    python benchmarks/speed/data.py [--data PATH…] [--models repmode_small,sam_vit_b] [--steps 10]

The loop's rate, measured against the same loop fed one fixed batch that is already there: time lost = 1 − rate / rate
without reading. By default on a Kaggle-sized zarr (65 layers of 8181×6330 px, written sparsely where it is noise), and
on every path that is given. Both run in one process in turn, several rounds. On a CPU seconds are processor seconds,
which other work on the machine does not stretch; tiles are then read in the process that trains.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import zarr

SHAPE, CHUNK = (65, 8181, 6330), (64, 128, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", nargs="*", default=[])
    parser.add_argument("--models", default="repmode_small,sam_vit_b")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=4)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"{platform.machine()} {device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        paths = [*options.data, str(kaggle_sized(Path(folder)))]
        for path in paths:
            for name in options.models.split(","):
                lost, step = measure(path, name, options.steps, options.rounds, options.batch_size, device)
                print(f"{Path(path).name:<24}{name:<16} {step:6.2f} s a step, {lost:6.1%} lost to data", flush=True)


def kaggle_sized(folder: Path) -> Path:
    """A fragment of the size of Kaggle's first, as `convert` writes it; every chunk holds the same noise."""
    store = folder / "kaggle.zarr"
    volume = zarr.create_array(
        store=store, shape=SHAPE, dtype="uint8", chunks=CHUNK, shards=(64, 1024, 1024), dimension_names=["z", "y", "x"]
    )
    noise = np.random.default_rng(0).normal(110, 30, (SHAPE[0], 1024, 1024)).clip(0, 255).astype(np.uint8)
    for y in range(0, SHAPE[1], 1024):
        for x in range(0, SHAPE[2], 1024):
            height, width = min(1024, SHAPE[1] - y), min(1024, SHAPE[2] - x)
            volume[:, y : y + height, x : x + width] = noise[:, :height, :width]
    import tifffile

    label = np.zeros(SHAPE[1:], np.uint8)
    label[1000:7000:200, 500:6000] = 255
    tifffile.imwrite(folder / "kaggle_inklabels.tif", np.maximum(label, np.roll(label, 20, 0)))
    return store


def one_batch(real: Any) -> Callable[..., Iterator[dict[str, Any]]]:
    """In place of the loop's loader: its first batch, over and over, without reading, collating or copying anew."""

    def make_loader(*args: Any, **kwargs: Any) -> Iterator[dict[str, Any]]:
        return itertools.repeat(next(iter(real(*args, **kwargs))))

    return make_loader


def measure(path: str, name: str, steps: int, rounds: int, batch: int, device: str) -> tuple[float, float]:
    """(share of a step lost to data, seconds a step)."""
    from data_recipes.fragment import open_fragments
    from data_recipes.recipe import load_recipe
    from data_recipes.regions import whole
    from data_recipes.sampling import build_table
    from data_recipes.tiles import TileDataset, fit_contract
    from zoo import create_model, model_card
    from zoo.train import loop
    from zoo.train.config import TrainConfig

    fragments = open_fragments([path])
    depth = min(model_card(name).depth, *(fragment.depth for fragment in fragments.values()))
    tile = 128
    region = {key: (whole(fragment.shape),) for key, fragment in fragments.items()}
    contract = fit_contract(fragments, region, depth=depth, tile=tile)
    table, _ = build_table(fragments, region, load_recipe("random").with_(tile=tile, samples=2000), seed=0)
    dataset = TileDataset(fragments, table, contract)
    torch.manual_seed(0)
    model = create_model(name, depth=depth, tile=tile)
    seconds: dict[str, list[float]] = {"real": [], "fixed": []}
    real = loop.make_loader
    for round_ in range(rounds):
        for kind in seconds:
            ends: list[float] = []
            config = TrainConfig(
                steps=steps, batch_size=batch, seed=round_, num_workers=None if device == "cuda" else 0
            )
            loop.make_loader = real if kind == "real" else one_batch(real)
            with tempfile.TemporaryDirectory() as out:
                loop.train(
                    model,
                    dataset,
                    config,
                    device=device,
                    out=out,
                    on_progress=lambda now, ends=ends: ends.append(
                        now.seconds if device == "cuda" else time.process_time()
                    ),
                )
            seconds[kind] += [later - earlier for earlier, later in pairwise(ends[2:])]
    loop.make_loader = real
    step = median(seconds["real"])
    return 1 - median(seconds["fixed"]) / step, step


if __name__ == "__main__":
    main()

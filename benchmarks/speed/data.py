"""How much of a training step is lost to reading tiles.

    python benchmarks/speed/data.py [--data PATH…] [--models repmode_small,sam_vit_b] [--turns 4] [--turn 4]

The loop's rate, measured against the same loop fed one fixed batch that is already there: time lost = 1 − rate / rate
without reading. By default on a Kaggle-sized zarr (65 layers of 8181×6330 px of noise, every chunk written in full, 3
GB in the folder for temporary files), and on every path that is given. The zarr has just been written, so the system
may hold it in memory; for the speed of a disk give a path that nobody has read.

Real and fixed steps follow each other in one run, a few of each in turn, so that what else the machine does falls on
both alike; the share is the median over the turns. It is given by the clock, in which waiting for a disk counts, and by
the processor seconds of all threads of the process that trains, which other work does not stretch. On a CPU that
process reads the tiles itself unless --workers says otherwise; what workers have read ahead is not counted.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

SHAPE, CHUNK, SHARD = (65, 8181, 6330), (13, 128, 128), (65, 1024, 1024)
PREFETCHED = 2  # batches that the loop's loader has each worker read ahead


class Share(NamedTuple):
    """Seconds of a real step, and what share of it is lost to data."""

    step: float
    lost: float


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", nargs="*", default=[])
    parser.add_argument("--models", default="repmode_small,sam_vit_b")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--turn", type=int, default=4, help="real steps in a turn, and as many fixed ones")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--workers", type=int, help="processes that read; by default 4 beside a GPU, none on a CPU")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    workers = options.workers if options.workers is not None else 4 if device == "cuda" else 0
    threads = f"{torch.get_num_threads()} threads, {workers} reading processes"
    print(f"{platform.machine()} {device}, {threads}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        paths = [*options.data, str(kaggle_sized(Path(folder)))]
        for path in paths:
            for name in options.models.split(","):
                clock, processor = measure(path, name, options.turns, options.turn, options.batch_size, workers, device)
                print(
                    f"{Path(path).name:<24}{name:<16} {clock.step:6.2f} s a step, {clock.lost:6.1%} lost to data; "
                    f"{processor.step:6.2f} s of the processor, {processor.lost:6.1%} lost",
                    flush=True,
                )


def kaggle_sized(folder: Path) -> Path:
    """A fragment of the size of Kaggle's first, as `convert` writes it; every chunk holds the same noise."""
    store = folder / "kaggle.zarr"
    volume = zarr.create_array(
        store=store,
        shape=SHAPE,
        dtype="uint8",
        chunks=CHUNK,
        shards=SHARD,
        compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"), Crc32cCodec()],
        dimension_names=["z", "y", "x"],
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


def in_turns(real: Any, turn: int, kinds: list[str]) -> Callable[..., Iterator[dict[str, Any]]]:
    """In place of the loop's loader: `turn` of its batches, then as often its very first one, which is there without
    reading, collating or copying anew; and so on. `kinds` takes what each step is."""

    def make_loader(*args: Any, **kwargs: Any) -> Iterator[dict[str, Any]]:
        loader = real(*args, **kwargs)
        ahead = loader.num_workers * (loader.prefetch_factor or 0)  # were read while the fixed one was computed
        read = iter(loader)
        fixed = next(read)
        while True:
            for kind, count in (("ahead", ahead), ("real", turn), ("fixed", turn)):
                for _ in range(count):
                    kinds.append(kind)
                    yield fixed if kind == "fixed" else next(read)

    return make_loader


def measure(path: str, name: str, turns: int, turn: int, batch: int, workers: int, device: str) -> list[Share]:
    """By the clock, and by the processor."""
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
    kinds: list[str] = []
    ends = [clocks()]
    steps = (turns + 1) * (PREFETCHED * workers + 2 * turn)
    config = TrainConfig(steps=steps, batch_size=batch, num_workers=workers)
    real = loop.make_loader
    loop.make_loader = in_turns(real, turn, kinds)
    try:
        with tempfile.TemporaryDirectory() as out:
            loop.train(
                model,
                dataset,
                config,
                device=device,
                out=out,
                on_progress=lambda _: ends.append(clocks()),
            )
    finally:
        loop.make_loader = real
    return [share_lost(kinds, [end[clock] for end in ends], turn) for clock in (0, 1)]


def clocks() -> tuple[float, float]:
    """Seconds by the clock, and of the processor, all threads of this process together."""
    return time.perf_counter(), time.process_time()


def share_lost(kinds: list[str], ends: list[float], turn: int) -> Share:
    """From what each step was, when the run began and when each step ended. The first turn, in which the loop warms up,
    is left out."""
    took: dict[str, list[float]] = {"real": [], "fixed": []}
    for kind, (earlier, later) in zip(kinds, pairwise(ends), strict=True):
        if kind in took:
            took[kind].append(later - earlier)
    sums = {kind: [sum(steps[at : at + turn]) for at in range(turn, len(steps), turn)] for kind, steps in took.items()}
    ratio = median(fixed / real for fixed, real in zip(sums["fixed"], sums["real"], strict=True))
    return Share(step=median(sums["real"]) / turn, lost=1 - ratio)


if __name__ == "__main__":
    main()

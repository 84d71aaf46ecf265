"""`python -m zoo.bench`: train models under one recipe, loss, split and budget, and rank them by Dice and memory."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import arg

from data_recipes.cli import no_default, run_cli

Flag = tyro.conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True)
class BenchOptions:
    """Train models under one recipe, loss, split and budget, and rank them by Dice and memory.

    Every run is a fresh process and one result file; give the same command again and finished runs are kept. Without
    --data the suite's own data is used: the quick suite runs on a synthetic phantom and needs no download.

    python -m zoo.bench report DIR… writes the leaderboard of a finished bench anew, or one of several.
    """

    models: Annotated[tuple[str, ...], no_default("NAME[,NAME…]")] = ()
    """Models, families or labels of the suite's rows; all: one of each family. Default: the suite's own."""
    data: Annotated[tuple[str, ...], no_default("PATH…")] = ()
    """Fragments, folders of fragments, or phantom:INK:SEED. Default: the suite's own."""
    suite: str = "quick"
    """A suite by name (see --list) or the path of a YAML file."""
    out: Annotated[Path | None, no_default("FOLDER")] = None
    """Folder for results. Default: runs/bench/SUITE, with --data runs/bench/SUITE-DATA."""
    seeds: Annotated[tuple[str, ...], no_default("N[,N…]")] = ()
    """Seeds to run. Default: the suite's."""
    folds: Annotated[tuple[str, ...], no_default("N[,N…]")] = ()
    """Folds of the split to run, from 0. Default: the suite's, or all."""
    steps: Annotated[int | None, no_default("N")] = None
    """Budget of training a run, in steps."""
    tiles_seen: Annotated[int | None, no_default("N")] = None
    """The same in tiles seen, each as often as it is seen. One budget may be given."""
    minutes: Annotated[float | None, no_default("MINUTES")] = None
    """The same in minutes."""
    flops: Annotated[float | None, no_default("FLOPS")] = None
    """The same in counted FLOPs of training, such as 1e15."""
    budgets: Annotated[tuple[str, ...], no_default("TIMES[,TIMES…]")] = ()
    """Run everything at so many times the budget as well, such as 0.5,2; models that change places are named."""
    sweep: Annotated[tuple[str, ...], no_default("SETTING=VALUE[,VALUE…]")] = ()
    """Training settings to choose for each row before it is run, such as lr=1e-4,3e-4: the same trials for all, judged
    on validation strips of the training side, never on test."""
    labels_turned: Flag = False
    """Also train and score every model, floors apart, with the first seed on labels turned by 180°: what scores there
    is a leak, or layout."""
    tile: Annotated[int | None, no_default("PX")] = None
    """Side of a tile, px."""
    depth: Annotated[int | None, no_default("LAYERS")] = None
    """Layers a model sees."""
    batch_size: Annotated[int | None, no_default("TILES")] = None
    """Tiles a step."""
    loss: Annotated[str | None, no_default("NAME[+NAME…]")] = None
    """Losses by name, joined by +, such as focal+jaccard+ms_ssim."""
    recipe: Annotated[str | None, no_default("NAME|FILE.yaml")] = None
    """Sampling recipe, by name or path."""
    samples: Annotated[int | None, no_default("TILES")] = None
    """Tiles in the training table."""
    letter_px: Annotated[int | None, no_default("PX")] = None
    """Side of the blocks that are resampled for intervals, px: at least a letter's pitch."""
    device: Annotated[str, arg(metavar="auto|cpu|cuda[:N]")] = "auto"
    """Where to run; auto takes a GPU when there is one."""
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"] | None, no_default("{auto,fp32,bf16,fp16}")] = None
    """Arithmetic of training and prediction."""
    engine: Literal["local", "ray"] = "local"
    """ray: send the runs to a Ray cluster (at RAY_ADDRESS, or one started here)."""
    num_cpus: int = 1
    """CPUs of each run on a Ray cluster, where it has no GPU."""
    pictures: Flag = True
    """--no-pictures shows neither data nor maps: where only numbers may be published."""
    list_all: Annotated[Flag, arg(name="list")] = False
    """List the suites and the models, and stop."""
    dry_run: Flag = False
    """Print the runs and the time that they will take, and stop. What was never measured is tried, for seconds."""


@dataclass(frozen=True)
class ReportOptions:
    """Write the leaderboard of a finished bench anew, or that of several which ran the same suite on several machines.

    Runs of models, folds and seeds are put together; benches that were not trained and scored alike are refused with
    what differs. Where the data lies elsewhere, numbers alone are written.
    """

    folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], arg(metavar="DIR…")]
    """Folders of benches (their --out)."""
    out: Annotated[Path | None, no_default("FOLDER")] = None
    """Where the leaderboard goes. Default: the folder itself; of several a folder of its own is needed."""
    pictures: Flag = True
    """--no-pictures shows neither data nor maps: where only numbers may be published."""


def main() -> int:
    if sys.argv[1:2] == ["report"]:
        chosen = tyro.cli(ReportOptions, args=sys.argv[2:], prog="python -m zoo.bench report")
        from zoo.bench.merge import report_command  # after parsing: --help must not wait for torch

        return report_command(chosen)
    options = tyro.cli(BenchOptions, prog="python -m zoo.bench")
    from zoo.bench.command import bench  # after parsing: --help must not wait for torch

    return bench(options)


if __name__ == "__main__":
    run_cli(main)

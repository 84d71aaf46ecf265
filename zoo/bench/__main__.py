"""`python -m zoo.bench`: train models under one recipe, loss, split and budget, and rank them by Dice and memory."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import arg

from data_recipes.cli import run_cli


@dataclass(frozen=True)
class BenchOptions:
    """Train models under one recipe, loss, split and budget, and rank them by Dice and memory.

    Every run is a fresh process and one result file; give the same command again and finished runs are kept. Without
    --data the suite's own data is used: the quick suite runs on a synthetic phantom and needs no download.

    python -m zoo.bench report DIR… writes the leaderboard of a finished bench anew, or one of several.
    """

    models: Annotated[tuple[str, ...], arg(metavar="NAME[,NAME…]")] = ()
    """Models, families or labels of the suite's rows; all: one of each family. Default: the suite's own."""
    data: Annotated[tuple[str, ...], arg(metavar="PATH…")] = ()
    """Fragments, folders of fragments, or phantom:INK:SEED. Default: the suite's own."""
    suite: str = "quick"
    """A suite by name (see --list) or the path of a YAML file."""
    out: Path | None = None
    """Folder for results. Default: runs/bench/SUITE."""
    seeds: Annotated[tuple[str, ...], arg(metavar="N[,N…]")] = ()
    """Seeds to run. Default: the suite's."""
    folds: Annotated[tuple[str, ...], arg(metavar="N[,N…]")] = ()
    """Folds of the split to run, from 0. Default: the suite's, or all."""
    steps: int | None = None
    """Budget of training a run, in steps."""
    tiles_seen: int | None = None
    """The same in tiles seen, each as often as it is seen. One budget may be given."""
    minutes: float | None = None
    """The same in minutes."""
    flops: float | None = None
    """The same in counted FLOPs of training, such as 1e15."""
    budgets: Annotated[tuple[str, ...], arg(metavar="TIMES[,TIMES…]")] = ()
    """Run everything at so many times the budget as well, such as 0.5,2; models that change places are named."""
    sweep: Annotated[tuple[str, ...], arg(metavar="SETTING=VALUE[,VALUE…]")] = ()
    """Training settings to choose for each row before it is run, such as lr=1e-4,3e-4: the same trials for all, judged
    on validation strips of the training side, never on test."""
    labels_turned: bool = False
    """Also train and score every model on labels turned by 180°: what scores there is a leak, or layout."""
    tile: int | None = None
    """Side of a tile, px."""
    depth: int | None = None
    """Layers a model sees."""
    batch_size: int | None = None
    """Tiles a step."""
    loss: str | None = None
    """Losses by name, joined by +, such as focal+jaccard+ms_ssim."""
    recipe: str | None = None
    """Sampling recipe, by name or path."""
    samples: int | None = None
    """Tiles in the training table."""
    letter_px: int | None = None
    """Side of the blocks that are resampled for intervals, px: at least a letter's pitch."""
    device: Annotated[str, arg(metavar="auto|cpu|cuda[:N]")] = "auto"
    """Where to run; auto takes a GPU when there is one."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] | None = None
    """Arithmetic of training and prediction."""
    engine: Literal["local", "ray"] = "local"
    """ray: send the runs to a Ray cluster (at RAY_ADDRESS, or one started here)."""
    num_cpus: int = 1
    """CPUs of each run on a Ray cluster, where it has no GPU."""
    pictures: bool = True
    """Show the data and the maps; --no-pictures where only numbers may be published."""
    list_all: Annotated[bool, arg(name="list")] = False
    """List the suites and the models, and stop."""
    dry_run: bool = False
    """Print the runs and the time that they will take, and stop. What was never measured is tried, for seconds."""


@dataclass(frozen=True)
class ReportOptions:
    """Write the leaderboard of a finished bench anew, or that of several which ran the same suite on several machines.

    Runs of models, folds and seeds are put together; benches that were not trained and scored alike are refused with
    what differs. Where the data lies elsewhere, numbers alone are written.
    """

    folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], arg(metavar="DIR…")]
    """Folders of benches (their --out)."""
    out: Path | None = None
    """Where the leaderboard goes. Default: the folder itself; of several a folder of its own is needed."""
    pictures: bool = True
    """Show the data and the maps; --no-pictures where only numbers may be published."""


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

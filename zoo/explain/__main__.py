"""`python -m zoo.explain`: which experts a trained model mixes, and which layers its prediction rests on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import arg

from data_recipes.cli import run_cli


@dataclass(frozen=True)
class ExpertsOptions:
    """The mean weight that the gates of a RepMode model give to each expert, by layer and task.

    Prints a table, and writes experts.png, experts.csv and experts.json.
    """

    checkpoint: Annotated[tyro.conf.Positional[Path], arg(metavar="CHECKPOINT")]
    """A .safetensors file from `python -m zoo.train`."""
    out: Path | None = None
    """Folder for the files. Default: `explain` beside the checkpoint."""


@dataclass(frozen=True)
class DepthOptions:
    """Which layers the predictions of a model rest on, by input gradient and by occlusion of a layer at a time.

    Prints a table, and writes depth.png, depth.csv and depth.json. Without --tile, tiles are drawn over the papyrus.
    """

    checkpoint: Annotated[tyro.conf.Positional[Path], arg(metavar="CHECKPOINT")]
    """A .safetensors file from `python -m zoo.train`, of any model."""
    data: Annotated[tyro.conf.Positional[str], arg(metavar="DATA")]
    """A fragment, or phantom:INK:SEED."""
    tile: Annotated[tuple[str, ...], arg(metavar="Y,X…")] = ()
    """Top-left corners of the tiles to look at, px, such as 512,640."""
    tiles: int = 16
    """How many tiles are drawn where none is given."""
    fill: Literal["neighbours", "mean"] = "neighbours"
    """What an occluded layer is replaced by: the mean of the layers beside it (what only this layer says is gone), or
    the mean of the tile (all that it says is gone, at the price of an input that no papyrus looks like)."""
    task: int | None = None
    """The task of a model that was built for several, from 0."""
    seed: int = 0
    """Of the tiles that are drawn."""
    batch_size: int = 8
    """Occluded copies of a tile computed at once."""
    device: Annotated[str, arg(metavar="auto|cpu|cuda[:N]")] = "auto"
    """Where to compute; auto takes a GPU when there is one."""
    out: Path | None = None
    """Folder for the files. Default: `explain` beside the checkpoint."""


def main() -> None:
    options = tyro.extras.subcommand_cli_from_dict(
        {"experts": ExpertsOptions, "depth": DepthOptions}, prog="python -m zoo.explain", description=__doc__
    )
    from zoo.explain.command import depth_command, experts_command  # after parsing: --help must not wait for torch

    if isinstance(options, ExpertsOptions):
        experts_command(options)
    else:
        depth_command(options)


if __name__ == "__main__":
    run_cli(main)

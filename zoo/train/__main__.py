"""`python -m zoo.train`: train one model on fragments and keep it as one checkpoint file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import arg

from data_recipes.cli import no_default, run_cli

Flag = tyro.conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True)
class TrainOptions:
    """Train one model on fragments and keep it as one checkpoint file, OUT/last.safetensors.

    Trains on all that is labelled, or leaves one fold out (--fold). Settings of the model's family are replaced by
    those of --config, and these by what is given beside it. Ctrl-C keeps what was trained so far, and --resume goes on
    from there. The same command under torchrun trains on many devices.
    """

    model: Annotated[tyro.conf.Positional[str], arg(metavar="MODEL")]
    """A model, a family (its tiny variant on a CPU), or a foreign module:builder."""
    data: Annotated[tuple[str, ...], arg(metavar="PATH…")]
    """Fragments, folders of fragments, or phantom:INK:SEED."""
    options: Annotated[tuple[str, ...], no_default("KEY=VALUE…|FILE.yaml")] = ()
    """The model's own options, such as pretrained=true tuning=lora; `python -m zoo show MODEL` lists them."""
    classes: int = 1
    """1: ink or not; more: the label's values are classes, 0 the background."""
    tasks: Annotated[tuple[str, ...], no_default("fragment|NAME=NUMBER…|FILE.yaml")] = ()
    """Tell a model that is conditioned on a task (repmode) what each tile is: each fragment a task of its own, or the
    task of each fragment, from 0 on."""
    out: Annotated[Path | None, no_default("FOLDER")] = None
    """Folder for checkpoint and log. Default: runs/train/MODEL."""
    config: Annotated[str | None, no_default("NAME|FILE.yaml")] = None
    """A YAML file of training settings, which replace single ones of the model's family, or of its own where it starts
    from weights that it is given; or, by name from configs/train, others in the place of these."""
    recipe: str = "edges_buckets_void"
    """Sampling recipe, by name or path."""
    samples: Annotated[int | None, no_default("TILES")] = None
    """Tiles in the training table. Default: the recipe's."""
    fold: Annotated[int | None, no_default("N")] = None
    """Leave this fold out, from 0: one of the fragments, or half of the only one. Default: train on everything."""
    buffer: Annotated[int | None, no_default("PX")] = None
    """Pixels kept free around what is left out. Default: a tile."""
    tile: Annotated[int | None, no_default("PX")] = None
    """Side of a tile, px. Default: the model's."""
    depth: Annotated[int | None, no_default("LAYERS")] = None
    """Layers the model sees. Default: the model's, or all where there are fewer."""
    offset: int = 0
    """Layers from the fragment's centre layer to the middle of the depth window."""
    clip: Annotated[tuple[float, float] | None, no_default("LOW HIGH")] = None
    """Intensities below and above are clipped, on the scale 0 to 255."""
    steps: Annotated[int | None, no_default("N")] = None
    """Budget in steps. Default: 1000."""
    tiles_seen: Annotated[int | None, no_default("N")] = None
    """The same in tiles seen, each as often as it is seen. One budget may be given."""
    minutes: Annotated[float | None, no_default("MINUTES")] = None
    """The same in minutes."""
    flops: Annotated[float | None, no_default("FLOPS")] = None
    """The same in counted FLOPs of training, such as 1e15."""
    batch_size: Annotated[int | None, no_default("TILES")] = None
    """Tiles a step."""
    lr: Annotated[float | None, no_default("RATE")] = None
    """Learning rate at its highest."""
    loss: Annotated[str | None, no_default("NAME[+NAME…]")] = None
    """Losses by name, joined by +, such as focal+jaccard+ms_ssim."""
    augment: Annotated[str | None, no_default("NAME|FILE.yaml")] = None
    """A set of augmentations: light (the default), ink, steel, or a YAML file."""
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"] | None, no_default("{auto,fp32,bf16,fp16}")] = None
    """Arithmetic; auto is bf16 where the device computes it natively."""
    degrade: Annotated[Literal["zmean", "zshuffle"] | None, no_default("{zmean,zshuffle}")] = None
    """Rob the input of what depth says, as a control."""
    seed: Annotated[int | None, no_default("N")] = None
    """Of the weights, the tiles, their order and their augmentation."""
    vram: Annotated[str | None, no_default("SIZE|free")] = None
    """Plan each step for so much GPU memory, such as 12GB, or for what is free: how many tiles at once, activation
    checkpointing and precision. The tiles a step stay as they are."""
    ram: Annotated[str | None, no_default("SIZE|free")] = None
    """The same on a CPU, for the memory of this process. Processes that read tiles (--workers) come on top."""
    resume: Flag = False
    """Go on with the unfinished run in OUT, to the weights that it would have had without the stop; under --minutes,
    whose number of steps nobody can repeat, to the same minutes in all."""
    overwrite: Flag = False
    """Start anew where OUT holds a run already; its states, checkpoints and TensorBoard files are removed."""
    start_from: Annotated[Path | None, no_default("CHECKPOINT")] = None
    """Start with the weights of this checkpoint, as far as they fit; what does not, and what of this run's held-out
    pixels they have seen, is named."""
    profile: Flag = False
    """Print what a step's time goes to, and what to change."""
    tensorboard: Flag = False
    """Scalars and predicted tiles under OUT/tensorboard."""
    cache_tiles: Flag = False
    """Keep tiles in shared memory once they are read; worth it for compressed layers."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Under torchrun: the whole model on each device, or (FSDP2) shared over them."""
    device: Annotated[str, arg(metavar="auto|cpu|cuda[:N]")] = "auto"
    """Where to train; auto takes a GPU when there is one."""
    workers: Annotated[int | None, no_default("N")] = None
    """Processes that read tiles. Default: by the number of cores."""


def main() -> int:
    options = tyro.cli(TrainOptions, prog="python -m zoo.train")
    from zoo.train.command import train_command  # after parsing: --help must not wait for torch

    return train_command(options)


if __name__ == "__main__":
    run_cli(main)

"""`python -m zoo.predict`: an ink map of a whole segment, of any size, from one checkpoint or several."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import arg

from data_recipes.cli import no_default, run_cli

Also = Literal["tif", "png", "mask", "csv"]


@dataclass(frozen=True)
class PredictOptions:
    """Predict an ink map of a segment of any size, in memory that does not grow with it.

    Interrupted or killed, the same command goes on to the same map, bit for bit. --num-parts and --part-id share one
    map out over machines, and `python -m zoo.predict reduce OUT` then puts it together; under torchrun both happen by
    themselves.
    """

    segment: Annotated[tyro.conf.Positional[str], arg(metavar="SEGMENT")]
    """A fragment in any format, a URL of a zarr (http, https, s3), or phantom:INK:SEED."""
    checkpoint: Annotated[tyro.conf.Positional[str], arg(metavar="CHECKPOINT[,CHECKPOINT…]")]
    """A .safetensors file from `python -m zoo.train`; several, joined by commas, are averaged."""
    out: Annotated[tyro.conf.Positional[Path], arg(metavar="OUT")]
    """OUT.zarr (OME-Zarr with levels), OUT.tif (tiled BigTIFF) or OUT.png. A reduced OUT_preview.png lies beside it."""
    also: Annotated[tuple[Also, ...], no_default("{tif,png,mask,csv}…")] = ()
    """Write these beside OUT too: the same map in another form, the binary mask, or Kaggle's submission."""
    threshold: Annotated[float | None, no_default("T")] = None
    """Ink from this probability on: stored with the map, and used for mask and csv."""
    tile: Annotated[int | None, no_default("PX")] = None
    """Side of a tile, px. Default: the contract's."""
    overlap: Annotated[float | None, no_default("SHARE")] = None
    """Share of a tile that the next one covers again, 0 to 0.9. Default: 0.5."""
    stride: Annotated[int | None, no_default("PX")] = None
    """Pixels from one tile to the next, instead of --overlap."""
    blend: Literal["constant", "gaussian", "hann"] = "hann"
    """How overlapping tiles are weighted."""
    tta: Literal["none", "flips", "turns", "all"] = "none"
    """Test-time augmentation: the mean over flips (4), quarter turns (4), or both (8)."""
    region: Annotated[tuple[str, ...], no_default("Y0,Y1,X0,X1…")] = ()
    """Predict only the shards that these rectangles touch, rows Y0 to Y1 and columns X0 to X1 of the map in px, the
    last ones left out; the map is 0 elsewhere, and says so. Default: all."""
    direction: Annotated[Literal["forward", "reverse", "both"] | None, no_default("{forward,reverse,both}")] = None
    """Read layers as stored, from the last to the first, or make a map of each, OUT.forward and OUT.reverse. Where
    it is not given, the contract and the segment decide."""
    layer_start: Annotated[int | None, no_default("LAYER")] = None
    """First stored layer to read. Default: as the contract says. Not with --voxel-size resample."""
    layer_end: Annotated[int | None, no_default("LAYER")] = None
    """Layer after the last one to read."""
    repeat_layers: bool = False
    """Repeat the outermost layer where the window leaves the volume, instead of refusing it."""
    voxel_size: Literal["refuse", "resample", "ignore"] = "refuse"
    """What to do where the voxel size is known and another than in training."""
    to_uint8: Annotated[str | None, no_default("high_byte|clip:LO:HI")] = None
    """How 16 bits become 8, or how this segment's 8 came from 16."""
    mask: Annotated[Path | None, no_default("PATH")] = None
    """A papyrus mask instead of the segment's own: tiles without papyrus are skipped."""
    task: Annotated[str | None, no_default("NUMBER|FRAGMENT")] = None
    """The task of a model that was built for several: its number, or the fragment that had it in training. Where it is
    not given, that of a fragment of this name."""
    batch_size: Annotated[int | None, no_default("TILES")] = None
    """Tiles computed at once. Default: 8 on a CPU, 32 on a GPU."""
    device: Annotated[str, arg(metavar="auto|cpu|cuda[:N]")] = "auto"
    """Where to compute; auto takes a GPU when there is one."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto is bf16 where the device computes it natively and it moves the map by less than one grey value."""
    compile: bool = False
    """Run the model through torch.compile."""
    dtype: Literal["uint8", "float16"] = "uint8"
    """How probabilities are stored; uint8 is probability × 255."""
    zarr_format: Literal[2, 3] = 3
    """3: OME-Zarr 0.5, sharded; 2: OME-Zarr 0.4, for tools that read no newer one."""
    shard: Annotated[int, arg(metavar="PX")] = 1024
    """Side of what is computed and written at once, px: a multiple of 256."""
    num_parts: Annotated[int, arg(metavar="N")] = 1
    """Share the map out into this many parts; `reduce` then takes --also and --threshold."""
    part_id: Annotated[int, arg(metavar="N")] = 0
    """Which part to make here, from 0."""
    engine: Literal["local", "ray"] = "local"
    """ray: send the parts to a Ray cluster (at RAY_ADDRESS, or one started here)."""
    num_cpus: Annotated[int | None, no_default("N")] = None
    """CPUs of each of ray's workers, where it has no GPU. Default: 1."""


@dataclass(frozen=True)
class ReduceOptions:
    """Put a map together whose parts were made with --num-parts: check that all are there, add levels, write OUT.

    On a finished OUT.zarr it writes the forms of --also, and stores --threshold with the map.
    """

    out: Annotated[tyro.conf.Positional[Path], arg(metavar="OUT")]
    """The OUT that the parts were given."""
    also: Annotated[tuple[Also, ...], no_default("{tif,png,mask,csv}…")] = ()
    """Write these beside OUT too."""
    threshold: Annotated[float | None, no_default("T")] = None
    """Ink from this probability on: stored with the map, and used for mask and csv."""


def main() -> int:
    warnings.filterwarnings("ignore", message=".*the outermost layer is repeated")  # said beforehand, once
    if sys.argv[1:2] == ["reduce"]:
        options = tyro.cli(ReduceOptions, args=sys.argv[2:], prog="python -m zoo.predict reduce")
        from zoo.predict.command import reduce_command  # after parsing: --help must not wait for torch

        return reduce_command(options)
    options = tyro.cli(PredictOptions, prog="python -m zoo.predict")
    from zoo.predict.command import predict_command

    return predict_command(options)


if __name__ == "__main__":
    run_cli(main)

"""`python -m data_recipes`: info | convert | build | preview | augment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from data_recipes.cli import run_cli

app = tyro.extras.SubcommandApp()
Size = Annotated[tuple[int, int, int] | None, tyro.conf.arg(metavar="Z Y X")]
Data = Annotated[list[str], tyro.conf.arg(metavar="PATH …")]
Flag = tyro.conf.FlagCreatePairsOff[bool]


@app.command
def info(
    paths: Annotated[tyro.conf.Positional[list[str]], tyro.conf.arg(metavar="PATH …")],
    json: Flag = False,
    quick: Flag = False,
) -> None:
    """Say what was understood of fragments: format, size, voxel size, papyrus and ink, and what is missing.

    Args:
        paths: Fragments, folders of fragments, URLs of zarrs (https, s3), or phantom:<ink>:<seed>.
        json: Print JSON instead of a table.
        quick: Read headers only; papyrus and ink are not counted.
    """
    from data_recipes.info import run

    run(paths, as_json=json, count=not quick)


@app.command
def convert(
    src: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SRC")],
    dst: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DST.zarr")],
    to_uint8: Annotated[str | None, tyro.conf.arg(metavar="HOW")] = None,
    chunk: Size = None,
    shard: Size = None,
    quiet: Flag = False,
) -> None:
    """Write a fragment as one sharded zarr that tiles read from fast. The same command continues an interrupted one.

    Args:
        src: Fragment of any format, or the URL of a zarr (https, s3).
        dst: New path that ends in .zarr.
        to_uint8: How 16 bits become 8: high_byte, or clip:LO:HI. Without it they stay 16.
        chunk: Layers, rows and columns that are decoded at once.
        shard: Layers, rows and columns of one file, a multiple of the chunk.
        quiet: No progress.
    """
    from data_recipes.convert import run

    run(src, dst, to_uint8=to_uint8, chunk=chunk, shard=shard, quiet=quiet)


@app.command
def build(
    data: Data,
    recipe: str = "edges_buckets_void",
    out: Path = Path("table.csv"),
    seed: int = 0,
    tile: int | None = None,
    samples: int | None = None,
) -> None:
    """Choose tiles by a recipe, write them as a table, and print what each bucket got and why any fell short.

    Args:
        data: Fragments, folders of fragments, or phantom:<ink>:<seed>.
        recipe: A recipe's name (edges_buckets_void, grid, random) or a YAML file.
        out: CSV file to write.
        seed: Same seed, same table.
        tile: Side of a tile in px, instead of the recipe's.
        samples: Number of tiles in all, instead of the recipe's quotas.
    """
    from data_recipes.build import build

    build(recipe, data, out, seed=seed, tile=tile, samples=samples)


@app.command
def preview(
    data: Data,
    recipe: str = "edges_buckets_void",
    out: Path = Path("preview.png"),
    seed: int = 0,
    tile: int | None = None,
    samples: int | None = None,
    table: Path | None = None,
    dpi: int = 200,
) -> None:
    """Draw the tiles of a recipe over the label, coloured by kind, with the histogram of the buckets.

    Args:
        data: Fragments, folders of fragments, or phantom:<ink>:<seed>.
        recipe: A recipe's name (edges_buckets_void, grid, random) or a YAML file.
        out: PNG file to write.
        seed: Same seed, same tiles.
        tile: Side of a tile in px, instead of the recipe's.
        samples: Number of tiles in all, instead of the recipe's quotas.
        table: Draw the tiles of this CSV instead of choosing anew.
        dpi: Pixels an inch of the picture.
    """
    from data_recipes.preview import preview

    written = preview(recipe, data, out, seed=seed, tile=tile, samples=samples, table=table, dpi=dpi)
    print(f"drawn to {written}")


@app.command
def augment(
    data: Data,
    set: Annotated[str, tyro.conf.arg(metavar="NAME|FILE.yaml")] = "ink",
    out: Path = Path("augment.png"),
    seed: int = 0,
    tile: int = 96,
    depth: int | None = None,
    draws: int = 6,
    dpi: int = 110,
) -> None:
    """Draw what a set of augmentations does to a tile: all of it together, and each transform alone.

    Args:
        data: Fragments, folders of fragments, or phantom:<ink>:<seed>.
        set: A set's name (light, ink, steel) or a YAML file.
        out: PNG file to write.
        seed: Same seed, same tile and draws.
        tile: Side of the tile in px.
        depth: Layers about the centre one, instead of all.
        draws: How many draws of the whole set.
        dpi: Pixels an inch of the picture.
    """
    from data_recipes.augment import load_set

    settings = load_set(set)  # before torch is loaded: a wrong name is told at once
    from data_recipes.augment.preview import preview

    named = f"{Path(set).stem}: a tile of {tile} px"
    written = preview(settings, data, out, title=named, tile=tile, depth=depth, draws=draws, seed=seed, dpi=dpi)
    print(f"drawn to {written}")


def main() -> None:
    """Entry point."""
    run_cli(lambda: app.cli(prog="python -m data_recipes", description=__doc__))


if __name__ == "__main__":
    main()

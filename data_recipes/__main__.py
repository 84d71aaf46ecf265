"""`python -m data_recipes`: info | convert | build | preview."""

from __future__ import annotations

from typing import Annotated

import tyro

from data_recipes.cli import run_cli

app = tyro.extras.SubcommandApp()
Size = Annotated[tuple[int, int, int] | None, tyro.conf.arg(metavar="Z Y X")]
Flag = tyro.conf.FlagCreatePairsOff[bool]


@app.command
def info(
    paths: Annotated[tyro.conf.Positional[list[str]], tyro.conf.arg(metavar="PATH …")],
    json: Flag = False,
    quick: Flag = False,
) -> None:
    """Say what was understood of fragments: format, size, voxel size, papyrus and ink, and what is missing.

    Args:
        paths: Fragments, folders of fragments, or phantom:<ink>:<seed>.
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
        src: Fragment of any format.
        dst: New path that ends in .zarr.
        to_uint8: How 16 bits become 8: high_byte, or clip:LO:HI. Without it they stay 16.
        chunk: Layers, rows and columns that are decoded at once.
        shard: Layers, rows and columns of one file, a multiple of the chunk.
        quiet: No progress.
    """
    from data_recipes.convert import run

    run(src, dst, to_uint8=to_uint8, chunk=chunk, shard=shard, quiet=quiet)


def main() -> None:
    """Entry point."""
    run_cli(lambda: app.cli(prog="python -m data_recipes", description=__doc__))


if __name__ == "__main__":
    main()

"""`python -m zoo list | show`: which models there are, what each costs, takes and changes against its paper."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated

import tyro

from data_recipes.cli import run_cli
from zoo.registry import list_models, resolve_name

if TYPE_CHECKING:
    from rich.console import Console

_JSON = tyro.conf.arg(name="json", help="print JSON instead, with every field of the cards")


def list_command(
    family: Annotated[str | None, tyro.conf.arg(help="only this family, such as repmode")] = None,
    json_: Annotated[bool, _JSON] = False,
) -> None:
    """All models: parameters, FLOPs and memory of a tile, what is taken; paper, licence, what differs from it."""
    from zoo.catalogue import catalogue

    rows = catalogue(list_models(family), say=_say)
    if json_:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    from zoo.listing import print_list

    print_list(rows, _console())


def show_command(name: tyro.conf.Positional[str], json_: Annotated[bool, _JSON] = False) -> None:
    """The whole card of one model, with its options; a family's name shows its tiny variant."""
    from zoo.catalogue import catalogue

    (row,) = catalogue([resolve_name(name)])
    if json_:
        print(json.dumps(row, indent=2, ensure_ascii=False))
        return
    from zoo.listing import print_card

    print_card(row, _console())


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _console() -> Console:
    from rich.console import Console

    # where rich sees no terminal it takes 80 columns, which folds every cell
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 100)


def main() -> None:
    tyro.extras.subcommand_cli_from_dict(
        {"list": list_command, "show": show_command}, prog="python -m zoo", description=__doc__
    )


if __name__ == "__main__":
    run_cli(main)

"""`python -m zoo list | show`: which models there are, what each costs, takes and changes against its paper."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import tyro

from data_recipes.cli import run_cli
from zoo.registry import list_models, model_card, resolve_name


def count_parameters(name: str) -> int:
    """Parameters of a model at its card's depth and tile, counted on the meta device: no weights are held."""
    import torch

    from zoo.registry import create_model

    card = model_card(name)
    with torch.device("meta"):
        model = create_model(name, depth=card.depth, tile=card.tile)
    return sum(parameter.numel() for parameter in model.parameters())


def describe(name: str) -> dict[str, Any]:
    """A card as a dictionary, under its registered name, with `parameters` added."""
    return dataclasses.asdict(model_card(name)) | {"name": name, "parameters": count_parameters(name)}


def list_command(
    family: Annotated[str | None, tyro.conf.arg(help="only this family, such as repmode")] = None,
    json_: Annotated[bool, tyro.conf.arg(name="json", help="print JSON instead of a table")] = False,
) -> None:
    """All models: name, family, parameters, layers and tile by default and allowed; paper, licence, what differs."""
    rows = [describe(name) for name in list_models(family)]
    if json_:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    from rich import box
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table("name", "family", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("parameters", justify="right")
    table.add_column("layers")
    table.add_column("tile")
    for row in rows:
        layers, tile = f"{row['depth']}; any from 1", f"{row['tile']} px; {_sides(row)}"
        table.add_row(row["name"], row["family"], f"{row['parameters']:,}", layers, tile)
    console = _console()
    console.print(table)
    for row in rows:  # as Text, or rich would read square brackets as its markup
        console.print(Text(f"\n{row['name']}", style="bold"))
        about = [row["summary"], f"{row['paper']}; {row['licence']}" if row["paper"] else row["licence"]]
        for line in (*about, *(f"- {sentence}" for sentence in row["differs"])):
            console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))


def show_command(
    name: tyro.conf.Positional[str],
    json_: Annotated[bool, tyro.conf.arg(name="json", help="print JSON instead")] = False,
) -> None:
    """The whole card of one model; a family's name shows its tiny variant."""
    row = describe(resolve_name(name))
    if json_:
        print(json.dumps(row, indent=2, ensure_ascii=False))
        return
    from rich.table import Table
    from rich.text import Text

    facts = {
        "summary": row["summary"],
        "family": row["family"],
        "parameters": f"{row['parameters']:,} at {row['depth']} layers, {row['tile']} px",
        "depth": f"any number of layers from 1; {row['depth']} by default",
        "tile": f"{_sides(row)}; {row['tile']} px by default",
        "head": f"one value every {row['out_stride']} px" if row["out_stride"] > 1 else "full resolution",
        "depth order": "can change the answer" if row["uses_depth"] else "cannot change the answer",
        "paper": row["paper"] or "none",
        "url": row["url"] or "none",
        "licence": row["licence"],
        "differs": _lines(row["differs"]) or "nothing",
        "options": _lines(f"{key}: {meaning}" for key, meaning in row["options"].items()) or "none",
    }
    table = Table(show_header=False, box=None, title=row["name"], title_justify="left")
    for key, value in facts.items():
        table.add_row(Text(key, style="bold"), Text(value))
    _console().print(table)


def _lines(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _sides(row: dict[str, Any]) -> str:
    least = max(row["min_tile"], row["multiple"])
    return f"multiples of {row['multiple']} from {least}" if row["multiple"] > 1 else f"any side from {least}"


def _console():
    from rich.console import Console

    # where rich sees no terminal it takes 80 columns, which folds every cell
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 100)


def main() -> None:
    tyro.extras.subcommand_cli_from_dict(
        {"list": list_command, "show": show_command}, prog="python -m zoo", description=__doc__
    )


if __name__ == "__main__":
    run_cli(main)

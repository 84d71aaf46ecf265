"""`python -m zoo list | show`: which models there are, what each costs, takes and changes against its paper."""

from __future__ import annotations

import dataclasses
import json
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
    """All models: name, family, parameters, depth and tile allowed, paper, licence, what differs from the paper."""
    rows = [describe(name) for name in list_models(family)]
    if json_:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=True)
    for column in ("name", "family", "parameters", "depth", "tile", "paper", "licence", "differs from the paper"):
        table.add_column(column, justify="right" if column == "parameters" else "left")
    table.columns[0].no_wrap = table.columns[2].no_wrap = True
    for row in rows:
        cells = (
            row["name"],
            row["family"],
            f"{row['parameters']:,}",
            f"{row['depth']}, ≥ 1",
            f"{row['tile']}, {_sides(row)}",
            row["paper"] or "none",
            row["licence"],
            _lines(row["differs"]) or "nothing",
        )
        table.add_row(*map(Text, cells))  # as Text, or rich would read square brackets as its markup
    _console().print(table)


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

    # rich takes 80 columns where it sees no terminal, which folds every cell of a wide table
    return Console() if sys.stdout.isatty() else Console(width=200)


def main() -> None:
    tyro.extras.subcommand_cli_from_dict(
        {"list": list_command, "show": show_command}, prog="python -m zoo", description=__doc__
    )


if __name__ == "__main__":
    run_cli(main)

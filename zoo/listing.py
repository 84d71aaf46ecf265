"""How the models' cards are printed: all of them as a table with notes a family, or one in full."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]  # of zoo.catalogue

_WIDE = 150  # columns of a terminal from which the summaries stand in the table
_NARROW = 90  # columns below which families are only set apart by a line, not named: the notes name them
_READABLE = 110  # columns that notes are folded to at most

_CAPTION = (
    "input: layers × tile² px by default, at which the figures are counted; any number of layers from 1 is taken. "
    "sides: multiples allowed, and the least. FLOPs: forward pass of one tile, 2 a multiply-add. "
    "memory: what that pass in fp32 keeps for the backward pass, weights apart."
)


def print_list(rows: Sequence[Row], console: Console) -> None:
    """A line a model; then, a family at a time, papers, licences and what differs."""
    wide, narrow = console.width >= _WIDE, console.width < _NARROW
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    if not narrow:
        table.add_column("family", no_wrap=True)
    table.add_column("model", no_wrap=True, style="bold")
    for heading in ("params", "FLOPs", "memory", "input"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("sides", no_wrap=True)
    if wide:
        table.add_column("what it is")
    for family, members in groupby(rows, key=lambda row: row["family"]):
        for number, row in enumerate(members):
            cells = [] if narrow else [Text("" if number else family)]
            cells += [
                Text(row["name"]),
                _short(row["parameters"]),
                _short(row["flops"]),
                _short(row["activation_bytes"]) + "B",
                f"{row['depth']}×{row['tile']}²",
                _sides(row),
            ]
            table.add_row(*cells, *([Text(row["summary"])] if wide else []))
        table.add_section()
    console.print(table)
    console.print(Padding(Text(_CAPTION, style="dim"), (1, 0, 0, 0)), width=min(console.width, _READABLE))
    for family, members in groupby(rows, key=lambda row: row["family"]):
        console.print(_notes(family, list(members), summaries=not wide), width=min(console.width, _READABLE))


def print_card(row: Row, console: Console) -> None:
    """The whole card of one model."""
    at = f"{row['depth']} layers of {row['tile']} px"
    frozen = row["parameters"] - row["trainable"]
    facts: dict[str, RenderableType] = {
        "summary": Text(row["summary"]),
        "family": Text(row["family"]),
        "parameters": Text(f"{row['parameters']:,}" + (f", {frozen:,} of them frozen" if frozen else "")),
        "cost": Text(
            f"{_short(row['flops'])} FLOPs forward and {_short(row['activation_bytes'])}B kept for the backward pass "
            f"(fp32, weights apart) for {at}"
        ),
        "layers": Text(f"any number from 1; {row['depth']} by default"),
        "tile": Text(f"{_sides_in_words(row)}; {row['tile']} px by default"),
        "head": Text(f"one value every {row['out_stride']} px" if row["out_stride"] > 1 else "full resolution"),
        "depth order": Text("can change the answer" if row["uses_depth"] else "cannot change the answer"),
        "paper": Text(row["paper"] or "none"),
        "url": Text(row["url"] or "none"),
        "licence": Text(row["licence"]),
        "differs": _bullets(row["differs"]) if row["differs"] else Text("nothing"),
        "options": _pairs(row["options"]) if row["options"] else Text("none"),
        "compile": Text(f"not as one graph: {row['not_traced']}" if row["not_traced"] else "traced whole"),
        "export": Text(f"not by torch.export: {row['not_exported']}" if row["not_exported"] else "by torch.export"),
    }
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for key, value in facts.items():
        table.add_row(key, value)
    console.print(Text(row["name"], style="bold"))
    console.print(table, width=min(console.width, _READABLE))


def _notes(family: str, rows: Sequence[Row], *, summaries: bool) -> RenderableType:
    """Paper, licence and differences; what all of a family say, once and first."""
    lines: list[RenderableType] = [Text(f"\n{family}", style="bold")]
    lines += _shared(rows, lambda row: [". ".join(part for part in (row["paper"], row["url"]) if part)])
    lines += _shared(rows, lambda row: [f"Licence: {row['licence']}"])
    if summaries:
        lines += [Padding(Text.assemble((row["name"], "bold"), f": {row['summary']}"), (0, 0, 0, 2)) for row in rows]
    lines += _shared(rows, lambda row: row["differs"], bullet=True)
    return Group(*lines)


def _shared(
    rows: Sequence[Row], sentences: Callable[[Row], Iterable[str]], bullet: bool = False
) -> list[RenderableType]:
    """Each sentence once, with the names of the models that say it unless all do."""
    said: dict[str, list[str]] = {}
    for row in rows:
        for sentence in sentences(row):
            if sentence:
                said.setdefault(sentence, []).append(row["name"])
    lines: list[RenderableType] = []
    for sentence, names in sorted(said.items(), key=lambda item: len(item[1]) < len(rows)):
        who = "" if len(names) == len(rows) else f"{', '.join(names)}: "
        text = Text.assemble((who, "bold"), sentence)
        lines.append(Padding(_hanging(text) if bullet else text, (0, 0, 0, 2)))
    return lines


def _hanging(text: Text) -> RenderableType:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row("-", text)
    return grid


def _bullets(sentences: Iterable[str]) -> RenderableType:
    return Group(*(_hanging(Text(sentence)) for sentence in sentences))


def _pairs(options: Mapping[str, str]) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    for key, meaning in options.items():
        grid.add_row(Text(key, style="bold"), Text(meaning))
    return grid


def _short(number: int) -> str:
    """Three digits and a unit: 1.91 M, 70.5 G."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            value = number / size
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"
    return f"{number} "


def _sides(row: Row) -> str:
    least = max(row["min_tile"], row["multiple"])
    return f"{row['multiple']}·n ≥ {least}" if row["multiple"] > 1 else f"any ≥ {least}"


def _sides_in_words(row: Row) -> str:
    least = max(row["min_tile"], row["multiple"])
    return f"multiples of {row['multiple']} from {least}" if row["multiple"] > 1 else f"any side from {least}"

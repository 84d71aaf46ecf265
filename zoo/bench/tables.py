"""The leaderboard as a table for the terminal, and as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from zoo.bench.leaderboard import QUALITY, Row, class_scores
from zoo.bench.result import write_whole
from zoo.bench.shown import marked, over_floors, place, remarks


def _text_of(value: float | None, pattern: str = "{:.3f}") -> str:
    return "–" if value is None else pattern.format(value)


def _columns(row: Row) -> dict[str, str]:
    """What a person sees of a row, in order."""
    interval = f" [{row.dice_low:.3f}, {row.dice_high:.3f}]" if row.dice_low is not None else ""
    return {
        "rank": place(row),
        "model": row.label,
        "controls": row.verdict,
        "Dice [95 %]": _text_of(row.dice) + interval,
        "over floors": _text_of(over_floors(row), "≥ {:+.3f}"),
        "class accuracy": _text_of(row.quality.get("class_accuracy")),
        "mean Dice": _text_of(row.quality.get("mean_dice")),
        "F0.5": _text_of(row.quality.get("f05")),
        "surface Dice": _text_of(row.quality.get("surface_dice")),
        "pseudo-F": _text_of(row.quality.get("pseudo_f")),
        "centre lines": _text_of(row.quality.get("centre_line_recall")),
        "AUC": _text_of(row.quality.get("auc")),
        "AUC 16 px": _text_of(row.quality.get("auc_blocks")),
        "AUC in rows": _text_of(row.quality.get("auc_rows")),
        "AP": _text_of(row.quality.get("ap")),
        "lift": _text_of(row.quality.get("ap_lift"), "{:.2f}"),
        "params": _text_of(None if row.parameters is None else row.parameters / 1e6, "{:.2f} M"),
        "train MB": _text_of(row.train_mb, "{:.0f}"),
        "infer MB": _text_of(row.inference_mb, "{:.0f}"),
        "s/step": _text_of(row.step_seconds),
        "steps": _text_of(row.steps, "{:d}"),
        "remarks": "; ".join(remarks(row)),
    }


def rich_table(rows: Sequence[Row], title: str, width: int) -> Group:
    """The leaderboard for a terminal of `width` columns. Empty columns are left out; remarks stand below, so that rows
    stay one line. ✗ behind the rank marks who fails a control, ? whose controls could not all be looked at.

    A narrow terminal gets fewer columns and no cut numbers; a name that is still too long goes on in a second line.
    """
    cells = [_columns(row) | {"rank": marked(row, place(row))} for row in rows]
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    shown = _shown(cells)
    second = next((name for name in ("mean Dice", "AUC in rows") if name in shown), "AUC")
    narrow = ("rank", "model", "Dice [95 %]", second, "train MB")
    names = [name for name in shown if (name in narrow if width < _WIDE else name not in _PAGE_ONLY)]
    for name in names:
        if name == "model":
            table.add_column(name, overflow="fold")
        else:
            table.add_column(_BROKEN.get(name, name), justify="right", no_wrap=True)
    for row in cells:
        table.add_row(*(escape(row[name]) for name in names))
    said = [Text(f"{marked(row, row.label)}: {'; '.join(found)}") for row in rows if (found := remarks(row))]
    return Group(table, *said)


_WIDE = 110  # columns of a terminal from which on all that is meant for one is shown
_BROKEN = {
    "over floors": "over\nfloors",
    "class accuracy": "class\naccuracy",
    "mean Dice": "mean\nDice",
    "AUC in rows": "AUC\nin rows",
    "train MB": "train\nMB",
}
_PAGE_ONLY = (
    "controls",
    "F0.5",
    "surface Dice",
    "pseudo-F",
    "centre lines",
    "AUC 16 px",
    "lift",
    "params",
    "infer MB",
    "steps",
    "remarks",
)  # a terminal is narrower than the page


def _shown(cells: Sequence[dict[str, str]]) -> list[str]:
    if not cells:
        return []
    return [name for name in cells[0] if name in ("rank", "model") or any(row[name] not in ("–", "") for row in cells)]


def markdown(rows: Sequence[Row], title: str, caption: Sequence[str]) -> str:
    """The leaderboard as a Markdown page: a table, then what is needed to read it."""
    cells = [_columns(row) for row in rows]
    names = _shown(cells)
    lines = [f"# {_plain(title)}", "", "| " + " | ".join(names) + " |"]
    lines.append("|" + "|".join(":---" if name in ("model", "remarks") else "---:" for name in names) + "|")
    for row in cells:
        written = (_plain(row[name]) if name in _FROM_OUTSIDE else row[name] for name in names)
        lines.append("| " + " | ".join(written) + " |")
    return "\n".join([*lines, "", *(f"- {_plain(line)}" for line in caption), ""])


_FROM_OUTSIDE = ("model", "remarks")  # what comes from a file name, a card or an error; all else is numbers of ours


def _plain(text: str) -> str:
    """Text on one line that cannot break out of its place or start markup: no HTML, link, picture, code or emphasis."""
    return " ".join(text.splitlines()).translate(_ESCAPES)


_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"} | {sign: f"\\{sign}" for sign in "\\|[]*`"})


def csv_text(rows: Sequence[Row]) -> str:
    """One line a configuration, numbers unrounded."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    plain = [name for name in Row.__dataclass_fields__ if name not in _NESTED]
    floors = sorted({floor for row in rows for floor in row.above_floors})
    scores = [*QUALITY[1:], *class_scores(rows)]
    writer.writerow([*plain, *_LISTS, *scores, *(f"above_{floor}_{end}" for floor in floors for end in ("lo", "hi"))])
    for row in rows:
        differences = [row.above_floors.get(floor, {}).get(end) for floor in floors for end in ("lo", "hi")]
        lists = ("; ".join(getattr(row, name)) for name in _LISTS)
        writer.writerow(
            [*(getattr(row, n) for n in plain), *lists, *(row.quality.get(k) for k in scores), *differences]
        )
    return stream.getvalue()


_LISTS = ("failures", "unchecked", "not_run", "warnings")
_NESTED = ("each_run", "to_leader", "above_floors", "above_floors_auc", "quality", "controls", "settings", *_LISTS)


def write_leaderboard(
    rows: Sequence[Row], out: Path, *, title: str, caption: Sequence[str], meta: dict[str, Any]
) -> None:
    """leaderboard.md, .csv and .json in `out`, each whole or not there."""
    write_whole(out / "leaderboard.md", markdown(rows, title, caption))
    write_whole(out / "leaderboard.csv", csv_text(rows))
    content = {
        "schema_version": 1,
        "title": title,
        "caption": list(caption),
        **meta,
        "rows": [asdict(row) for row in rows],
    }
    write_whole(out / "leaderboard.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

"""The page of a bench: `leaderboard.html`, one file that needs no network. Made from rows and Results alone.

Whatever comes from a file name, a card, a label or a reason is text: the template escapes it, the script sets it as
text, and the page's content policy lets no script run but its own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from zoo.bench.leaderboard import Row
from zoo.bench.page.charts import chart_data
from zoo.bench.page.content import columns, entries, flat, headline
from zoo.bench.page.pictures import Region
from zoo.bench.page.scale import Scale
from zoo.bench.result import Result, write_whole
from zoo.bench.shown import not_run

PAGE_FILE = "leaderboard.html"
_HERE = Path(__file__).parent
_PARTS = {
    "models": "",
    "floors": "Floors: a claim must exceed them",
    "controls": "Controls: trained on turned labels, or fed without the order of the layers",
    "failed": "Not scored",
}
_EARLY, _SCRIPTS = "early.js", ("page.js", "charts.js", "maps.js")


def write_page(
    rows: Sequence[Row],
    results: Sequence[Result],
    shown: Sequence[Region],
    out: Path,
    *,
    title: str,
    caption: Sequence[str],
    meta: Mapping[str, Any],
    pictures: bool = True,
) -> Path:
    """Write `out`/leaderboard.html, whole or not at all, and say where.

    Args:
        rows: as `build_rows` orders them.
        results: their runs.
        shown: the test regions with their pictures.
        caption: what is needed to read the numbers, a line each.
        meta: `suite` and `environment`, as in leaderboard.json.
        pictures: False where only numbers may be published, which the page says then; `shown` is empty.
    """
    path = out / PAGE_FILE
    write_whole(path, page_html(rows, results, shown, title=title, caption=caption, meta=meta, pictures=pictures))
    return path


def page_html(
    rows: Sequence[Row],
    results: Sequence[Result],
    shown: Sequence[Region],
    *,
    title: str,
    caption: Sequence[str],
    meta: Mapping[str, Any],
    pictures: bool = True,
) -> str:
    """The page as text; arguments as for `write_page`."""
    # StrictUndefined: a slip in the template is an error here, not a blank on the page.
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    early, script = _read(_EARLY), "\n".join(map(_read, _SCRIPTS))
    measures = columns(rows)
    listed = entries(rows, results, measures)
    parts = [(part, words, [entry for entry in listed if entry.part == part]) for part, words in _PARTS.items()]
    suite = dict(meta.get("suite") or {})
    chart = chart_data(listed, results)
    with_curve = {curve["id"] for curve in chart["curves"]}
    return environment.get_template("page.html.jinja").render(
        title=title,
        about=str(suite.pop("about", "")),
        headline=headline(rows),
        facts=_facts(rows, results),
        columns=measures,
        parts=[part for part in parts if part[2]],
        entries=listed,
        scale=Scale.of(rows),
        regions=shown,
        pictures=pictures,
        chart=chart,
        # Floors and controls last: they are the ones that matter least there.
        curved=sorted((entry for entry in listed if entry.id in with_curve), key=lambda entry: entry.part != "models"),
        caption=[line.partition(": ") for line in caption],
        environment=list(flat(meta.get("environment") or {})),
        suite=list(flat(suite)),
        css=Markup(_read("page.css")),
        early=Markup(early),
        script=Markup(script),
        script_hashes=Markup(" ".join(map(_hash, (early, script)))),
    )


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """How a content policy names the script that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}'"


def _facts(rows: Sequence[Row], results: Sequence[Result]) -> list[tuple[str, str]]:
    good = sum(result.status == "ok" for result in results)
    failing = sum(bool(row.failures) for row in rows)
    found = [
        ("models", str(sum(not (row.floor or row.control) for row in rows))),
        ("floors", str(sum(row.floor for row in rows))),
        ("folds", str(len({result.spec.fold for result in results}))),
        ("seeds", str(len({result.spec.seed for result in results}))),
        ("runs finished", f"{good} of {len(results)}"),
    ]
    return [
        *found,
        *([("rows that fail a control", str(failing))] if failing else []),
        *([("controls not run", ", ".join(missing))] if (missing := not_run(rows)) else []),
    ]

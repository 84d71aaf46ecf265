"""What the page says in words and numbers: columns, rows, the leading sentence and each configuration's details."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from zoo.bench.leaderboard import Row, holds
from zoo.bench.page.terms import FLOOR_NOTES, TERMS, Term
from zoo.bench.result import Result
from zoo.bench.shown import MARKS, marked, over_floors, place, remarks, too_few_blocks
from zoo.registry import model_card

Pairs = list[tuple[str, str]]
"""Terms and what is said of them."""

_OWN_PLACE = {"rank", "dice", "dice_low", "dice_high", "runs", "times_scored", "floor"}


class Cell(NamedTuple):
    """What a cell shows, and what it sorts by; None sorts last."""

    text: str
    value: float | str | None


@dataclass(frozen=True)
class Column:
    """A column of measures; `views` are the selections of columns it belongs to."""

    key: str
    term: Term
    views: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A small table of the drawer; numbers are already text."""

    names: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(frozen=True)
class Entry:
    """A configuration as the page shows it.

    `id` names its elements; `name` is its label with its `mark`; `place` is its rank with = where it is shared.
    """

    id: str
    row: Row
    name: str
    mark: str
    part: str
    place: str
    cells: dict[str, Cell]
    remarks: tuple[str, ...]
    over_floors: Cell
    card: Pairs
    paper_url: str
    settings: Pairs
    cost: Pairs
    run_cost: Pairs
    above: Table
    runs: Table
    fragments: Table


def columns(rows: Sequence[Row]) -> list[Column]:
    """Every measure that any row has: those of `TERMS` in their order, then whatever else the rows hold."""
    known = dict.fromkeys(key for key, term in TERMS.items() if term.views)
    found = dict.fromkeys(key for row in rows for key, value in _measures(row).items() if value is not None)
    order = [key for key in known if key in found] + [key for key in found if key not in known]
    return [Column(key, _term(key), TERMS[key].views if key in TERMS else ("all",)) for key in order]


def entries(rows: Sequence[Row], results: Sequence[Result], shown: Sequence[Column]) -> list[Entry]:
    """The rows in their order, with all that the drawer tells."""
    ranks = [row.rank for row in rows]
    found = []
    for number, row in enumerate(rows):
        runs = [result for result in results if result.spec.label == row.label]
        measures = _measures(row)
        card, url = _card(row)
        over = over_floors(row)
        shared = "=" if row.rank is not None and ranks.count(row.rank) > 1 else ""
        found.append(
            Entry(
                id=f"m{number}",
                row=row,
                name=marked(row, row.label),
                mark=MARKS.get(row.verdict, ""),
                part="failed" if row.dice is None else _kind(row),
                place=place(row) + shared,
                cells={column.key: cell(column.term, measures.get(column.key)) for column in shown},
                remarks=tuple(remarks(row)),
                over_floors=Cell("–" if over is None else f"≥ {over:+.3f}".replace("-", "−"), over),
                card=card,
                paper_url=url,
                settings=_settings(row, runs),
                cost=_cost(runs, apart=True),
                run_cost=_cost(runs, apart=False),
                above=_above(row),
                runs=_runs(runs),
                fragments=_fragments(runs),
            )
        )
    return found


def cell(term: Term, value: Any) -> Cell:
    """A measure as text in the term's pattern; – for none, and for what is not a number at all."""
    if not _is_number(value):
        return Cell("–", None)
    return Cell(term.pattern.format(value * term.scale).replace("-", "−"), float(value))


def _kind(row: Row) -> str:
    return "floors" if row.floor else "controls" if row.control else "models"


def headline(rows: Sequence[Row]) -> str:
    """Who leads, saying no more than ranks, floors and controls do."""
    scored = [row for row in rows if row.dice is not None]
    models = [row for row in scored if not (row.floor or row.control)]
    if not models:
        return "No model was scored." if scored else "Nothing was scored: every run failed."
    # One that lacks runs has no rank while others have; it does not lead them.
    best = max(models, key=lambda row: (row.rank is not None, row.dice or 0))
    return " ".join(filter(None, (_floor_above(best, scored), _lead(best, models), _verdict(best))))


def _floor_above(best: Row, scored: Sequence[Row]) -> str:
    above = [row for row in scored if row.floor and (row.dice or 0) >= (best.dice or 0)]
    if not above:
        return ""
    floor = max(above, key=lambda row: row.dice or 0)
    return f"The floor {_named(floor)} is not exceeded, {_score(floor)}."


def _lead(best: Row, models: Sequence[Row]) -> str:
    score = _score(best)
    if best.rank is None:
        few = too_few_blocks(models)
        return f"No rank is given{f': {few}' if few else ''}. {_named(best)} has the highest score, {score}."
    tied = [row for row in models if row.rank == best.rank]
    if len(tied) > 1:
        others = [_named(row) for row in tied if row is not best]
        those = " and ".join(others) if len(others) <= 2 else f"{len(others)} others"
        lean = min(tied, key=lambda row: row.train_mb or math.inf)
        least = f"; {_named(lean)} takes the least memory of them" if lean is not best and lean.train_mb else ""
        return f"{_named(best)} has {score}; {those} cannot be told apart from it{least}."
    return f"{_named(best)} leads with {score}." if len(models) > 1 else f"{_named(best)} has {score}."


def _verdict(best: Row) -> str:
    if best.verdict == "failed":
        more = f"; {len(best.failures) - 1} more below" if len(best.failures) > 1 else ""
        return f"{_named(best)} fails a control: {best.failures[0]}{more}."
    if best.verdict == "not checked":
        return f"Not checked of {_named(best)}: {'; '.join(best.unchecked)}."
    return ""


def _named(row: Row) -> str:
    """The label, in quotation marks where a comma of its own would read as the sentence's."""
    return f"“{row.label}”" if "," in row.label else row.label


def _score(row: Row) -> str:
    ends = "" if row.dice_low is None or row.dice_high is None else f" [{row.dice_low:.3f}, {row.dice_high:.3f}]"
    return f"Dice {row.dice:.3f}{ends}"


def flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as one line each: `augment.flip` and its value."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
        for number, inner in enumerate(value):
            yield from flat(inner, f"{name}.{number}")
    elif isinstance(value, list | tuple):
        yield name, ", ".join(map(_said, value)) or "none"
    else:
        yield name, _said(value)


def _said(value: Any) -> str:
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _term(key: str) -> Term:
    return TERMS.get(key) or Term(key.replace("_", " "))


def _measures(row: Row) -> dict[str, Any]:
    """All numbers of a row by name, its quality and controls among them."""
    own = {key: getattr(row, key) for key in row.__dataclass_fields__ if key not in _OWN_PLACE}
    rate = row.megapixels_per_second
    found = {**own, **row.quality, **row.controls, "seconds_per_megapixel": 1 / rate if rate else None}
    return {key: value for key, value in found.items() if _is_number(value) and key not in _OWN_PLACE}


def _card(row: Row) -> tuple[Pairs, str]:
    if row.model in FLOOR_NOTES:
        return [("how it works", FLOOR_NOTES[row.model])], ""
    try:
        card = model_card(row.model)
    except Exception as error:  # another package's model: whatever its import raises, the page is still written
        return [("card", f"none: {error}")], ""
    size = f"{card.depth} layers, tiles of {card.tile} px"
    limits = f"multiples of {card.multiple} px, at least {card.min_tile}; finest head at 1/{card.out_stride}"
    said = [
        ("how it works", card.summary),
        ("paper", card.paper),
        ("source", card.url),
        ("licence", card.licence),
        ("native input", f"{size} ({limits})"),
        ("order of the layers", "can change the answer" if card.uses_depth else "cannot change the answer"),
        *(("differs from the paper", text) for text in card.differs),
    ]
    # A card may come from any package: only a web address becomes a link.
    return [(term, text) for term, text in said if text], card.url if card.url.startswith(
        ("https://", "http://")
    ) else ""


def _settings(row: Row, runs: Sequence[Result]) -> Pairs:
    said = list(flat({key: value for key, value in row.settings.items() if key != "options"}))
    said += list(flat(row.settings.get("options") or {}, "option")) if row.settings.get("options") else []
    if runs and not row.floor:
        spec = runs[0].spec
        said += [("tile", f"{spec.tile} px × {spec.depth} layers"), ("overlap", f"{spec.overlap:g}")]
        contract = next((run.contract for run in runs if run.contract), {})
        said += flat({f"input.{key}": value for key, value in contract.items() if key not in ("tile", "depth")})
    return said


_OF_RUNS = ("budget", "steps", "samples", "precision", "train_seconds", "train_flops", "wall_seconds")
_ENDS = ("_low", "_high", "_repeats")


def _cost(runs: Sequence[Result], *, apart: bool) -> Pairs:
    """Each measure of cost that was measured apart from the runs, or else of the runs themselves.

    The median over the runs, with the range where they differ; of what was repeated the quartiles. Of runs from before
    anything was measured apart, all is of the runs.
    """
    good = [{k: v for k, v in run.cost.items() if holds(run, k)} for run in runs if run.status == "ok"]
    repeated = {key.removesuffix("_repeats") for cost in good for key in cost if key.endswith("_repeats")}
    ends = {name + end for name in repeated for end in _ENDS}
    said = []
    for key in dict.fromkeys(key for cost in good for key in cost if key not in ends):
        own = not repeated or key in _OF_RUNS or key.startswith("run_")
        values = [cost[key] for cost in good if cost.get(key) is not None]
        if own == apart or not values:
            continue
        term = _term(key)
        if not all(map(_is_number, values)):
            said.append((term.long, ", ".join(dict.fromkeys(text for value in values for _, text in flat(value)))))
            continue
        low, mid, high = (cell(term, value).text for value in (min(values), median(values), max(values)))
        spread = _quartiles(term, key, good) if key in repeated else ""
        said.append((term.long, f"{mid}{term.unit}" + spread + (f" ({low} to {high})" if low != high else "")))
    if apart:
        missing = (note.partition(": ") for run in runs for note in run.notes if note.startswith("cost-"))
        said += dict.fromkeys((stage.replace("-", " of "), why) for stage, _, why in missing)
    return said


def _quartiles(term: Term, key: str, costs: Sequence[Mapping[str, Any]]) -> str:
    """Of the first run that has them: others of this configuration have copied its figures."""
    low, high, repeats = next(
        ([cost[key + end] for end in _ENDS] for cost in costs if key + "_repeats" in cost), (None, None, 0)
    )
    return f", quartiles {cell(term, low).text} to {cell(term, high).text} over {repeats} repeats"


def _above(row: Row) -> Table:
    """The paired differences to the floors and to the leader."""
    rows = []
    for floor in row.above_floors:
        rows.append((floor, _difference(row.above_floors[floor]), _difference(row.above_floors_auc.get(floor))))
    if row.to_leader:
        rows.append(("the leader", _difference(row.to_leader), "–"))
    return Table(("against", "Dice", "AUC of 16-px blocks"), rows)


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None or not all(_is_number(found.get(key)) for key in ("diff", "lo", "hi")):
        return "–"
    return f"{found['diff']:+.3f} [{found['lo']:+.3f}, {found['hi']:+.3f}]".replace("-", "−")


_OF_A_RUN = ("dice", "auc", "auc_blocks")
_CONTROLS = ("null_high", "false_ink_on_blank", "calibration_dice")


def _runs(runs: Sequence[Result]) -> Table:
    """Each run with its threshold and its controls."""
    names = [_term(key).title for key in (*_OF_A_RUN, "threshold", *_CONTROLS, "leak")]
    rows = []
    for run in runs:
        leak = (run.controls.get("leak") or {}).get("overlap_px")
        numbers = [cell(_term(key), run.quality.get(key)).text for key in _OF_A_RUN]
        numbers.append(cell(_term("threshold"), run.threshold).text)
        numbers += [cell(_term(key), run.controls.get(key)).text for key in _CONTROLS]
        status = f"{run.times_scored}" if run.status == "ok" else run.status.replace("_", " ")
        rows.append((run.spec.fold, str(run.spec.seed), *numbers, "–" if leak is None else f"{leak:,}", status))
    return Table(("fold", "seed", *names, "times scored"), rows)


def _fragments(runs: Sequence[Result]) -> Table:
    """The scores of each fragment alone."""
    good = [run for run in runs if run.status == "ok"]
    found = dict.fromkeys(
        key
        for run in good
        for scores in run.per_fragment.values()
        for key, value in scores.items()
        if value is not None
    )
    keys = [key for key in TERMS if key in found] + [key for key in found if key not in TERMS]
    rows = [
        (name, run.spec.fold, str(run.spec.seed), *(cell(_term(key), scores.get(key)).text for key in keys))
        for run in good
        for name, scores in run.per_fragment.items()
    ]
    return Table(("fragment", "fold", "seed", *(_term(key).title for key in keys)), rows)

"""What a bench says of its finished runs: the table, leaderboard.md, .csv, .json and .html, and pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from data_recipes.fragment import Fragment
from zoo.bench.budgets import by_budget, told_loss
from zoo.bench.compare import ONE_RUN_SD
from zoo.bench.figures import PANEL, QUALITY_MEMORY, panels, quality_against_memory
from zoo.bench.leaderboard import Row, build_rows
from zoo.bench.page import write_page
from zoo.bench.page.pictures import regions
from zoo.bench.result import Result, commit
from zoo.bench.shown import not_run, too_few_blocks
from zoo.bench.suite import Suite
from zoo.bench.tables import rich_table, write_leaderboard
from zoo.train.config import told_budget

_LOG_WIDTH = 120  # of what is piped into a file; a terminal knows its own


def make_console() -> Console:
    """Where a bench speaks."""
    console = Console()
    return console if console.is_terminal else Console(width=_LOG_WIDTH)


def report(
    results: Sequence[Result],
    fragments: dict[str, Fragment],
    suite: Suite,
    out: Path,
    console: Console,
    *,
    own_data: bool = False,
    pictures: bool = True,
) -> list[Row]:
    """Write leaderboard, page and pictures of finished runs and show the table; numbers alone without `pictures`."""
    every, results = results, [result for result in results if result.spec.budget == 1]
    floors = _floors(results, suite)
    rows = build_rows(results, out, floors=floors)
    for row in rows:
        row.warnings += [*_unlike_the_suite(row, results, suite), *_failed_elsewhere(row, every)]
    budgets = by_budget(every, out, floors=floors)
    data = dict.fromkeys(name for result in results for name in result.spec.stamps)
    title = f"inkzoo, suite {suite.name}" + (f" on {', '.join(data)}" if own_data else "")
    caption = [*_caption(results, rows, suite, floors), *budgets.lines()]
    good = next((result for result in results if result.status == "ok"), None)
    meta = {"suite": suite.model_dump(mode="json"), "environment": good.environment if good else {}}
    meta |= {"folds": _folds(results), "seeds": _seeds(results), "floors": floors}
    meta |= {"budgets": budgets.as_dict()} if budgets.dice else {}
    write_leaderboard(rows, out, title=title, caption=caption, meta=meta)
    shown = regions(results, fragments, out, rows) if pictures else []
    write_page(rows, results, shown, out, title=title, caption=caption, meta=meta, pictures=pictures)
    for earlier in (*out.glob(f"{PANEL}_*.png"), out / QUALITY_MEMORY):  # no pixel of an earlier report stays
        earlier.unlink(missing_ok=True)
    drawn = panels(shown, out)
    if quality_against_memory(rows, out / QUALITY_MEMORY, title):
        drawn.insert(0, out / QUALITY_MEMORY)
    console.print()
    console.print(rich_table(rows, title, console.width))
    for line in caption:
        console.print(f"[dim]{escape(line)}[/]")
    console.print(f"\nWritten to {escape(str(out))}: leaderboard.html, .md, .csv, .json" + _names(drawn))
    return rows


def _unlike_the_suite(row: Row, results: Sequence[Result], suite: Suite) -> list[str]:
    """Where a row was trained with another budget or loss than the suite asks of all."""
    own = [one.spec.train for one in results if one.spec.label == row.label and one.spec.train]
    found = []
    for what, told in (("budget", told_budget), ("loss", told_loss)):
        other = dict.fromkeys(said for train in own if (said := told(train)) != told(suite.train))
        found += [f"{what} {', '.join(other)}, the suite's is {told(suite.train)}"] if other else []
    return found


def _failed_elsewhere(row: Row, results: Sequence[Result]) -> list[str]:
    """That runs of a row at another budget failed, which its own status does not tell."""
    failed = [one for one in results if one.spec.budget != 1 and one.spec.row == row.label and one.status != "ok"]
    return [f"at ×{one.spec.budget:g} the budget {one.status.replace('_', ' ')}: {one.reason}" for one in failed[:1]]


def _names(pictures: Sequence[Path]) -> str:
    return "".join(f", {escape(path.name)}" for path in pictures)


def _floors(results: Sequence[Result], suite: Suite) -> list[str]:
    """Labels of the rows that are floors."""
    specs = [result.spec for result in results]
    return list(dict.fromkeys(s.label for s in specs if s.floor or {s.model, s.label} & set(suite.floors)))


def _caption(results: Sequence[Result], rows: Sequence[Row], suite: Suite, floors: Sequence[str]) -> list[str]:
    spec = results[0].spec
    seeds, folds = _seeds(results), _folds(results)
    good = [result for result in results if result.status == "ok"]
    lines = [
        "rank: 1 is the group that cannot be told from the best Dice, in which the least training memory is first; "
        "every pair is compared on the same runs, with what "
        f"{_scattering(suite, folds, seeds)} scatter, Holm over the pairs; two others of one rank may differ, two of "
        "different ranks need not; no rank where fewer than 30 blocks hold ink, nor for a row whose seeds scatter far "
        "more than the others'",
        *_leader(rows),
        "the interval beside a Dice is of its own runs; differences to floors and leader are judged by how all rows "
        "scatter, so whether two such intervals overlap decides nothing",
        *_blocks(rows, suite),
        *([_one_seed(folds)] if len(seeds) == 1 else []),
        *(
            ["labels turned: trained and scored on labels turned by 180°; what scores there is a leak, or layout"]
            if any(result.spec.labels_turned for result in results)
            else []
        ),
        *(
            [f"controls not run: {', '.join(missing)}; a row that passed those run may yet fail there"]
            if (missing := not_run(rows))
            else []
        ),
        *_tuning(good),
        *_budget(results),
        "over floors: lower end of the 95 % interval of the paired difference of Dice to the floor that comes closest",
        "threshold: best Dice on held-out strips of the training side, never on test",
        f"test: {', '.join(_tested(results))}",
        f"folds {', '.join(folds)}; seeds {', '.join(map(str, seeds))}; recipe {suite.recipe}, {suite.tile} px × "
        f"{suite.depth} layers, buffer {spec.buffer} px",
        f"floors: {', '.join(floors)}; a row that is not above one of them fails" if floors else "floors: none",
    ]
    if good:
        leak = sum((result.controls.get("leak") or {}).get("overlap_px", 0) for result in good)
        lines.append(f"leak: {leak} test pixels seen in training")
        lines += _where(good)
        scored = max(result.times_scored for result in good)
        often = "once" if scored <= 1 else f"up to {scored} times on this machine, its seeds counted one by one"
        lines.append(f"a configuration has been scored on this test region {often}")
        if told := _by_fold(good, _agreement):
            lines.append(f"ceiling: the two labels of what is tested agree to {told}; a higher score says nothing more")
        if told := _by_fold(good, _ink):
            lines.append(f"ink: {told} of the pixels that count")
    return lines


def _folds(results: Sequence[Result]) -> list[str]:
    return sorted({result.spec.fold for result in results})


def _seeds(results: Sequence[Result]) -> list[int]:
    return sorted({result.spec.seed for result in results})


def _scattering(suite: Suite, folds: Sequence[str], seeds: Sequence[int]) -> str:
    """What ranks know of: blocks, and seeds and folds where there are several."""
    several = [f"blocks of {suite.letter_px} px"]
    several += [what for what, found in (("seeds", seeds), ("folds", folds)) if len(found) > 1]
    return " and ".join(filter(None, (", ".join(several[:-1]), several[-1])))


def _leader(rows: Sequence[Row]) -> list[str]:
    """Whom the others of rank 1 cannot be told from; in the table the leanest of them stands first."""
    tied = [row for row in rows if row.rank == 1]
    return [f"leader: {max(tied, key=lambda row: row.dice or 0).label}"] if len(tied) > 1 else []


def _one_seed(folds: Sequence[str]) -> str:
    if len(folds) > 1:
        return "one seed: how much training itself scatters shows only in how folds differ; --seeds 0,1,2 measures it"
    return (
        f"one run each: seeds are taken to scatter by {ONE_RUN_SD} (SD), as on the phantom; "
        "--seeds 0,1,2 measures what they do here"
    )


def _blocks(rows: Sequence[Row], suite: Suite) -> list[str]:
    """How many letter blocks the ranks rest on, or that there are too few for any."""
    if few := too_few_blocks(rows):
        return [f"no rank: there are {few}"]
    blocks = max((row.blocks for row in rows if row.blocks is not None), default=None)
    told = f"blocks: the ranks rest on {blocks} whole ones of {suite.letter_px} px that hold ink"
    return [] if blocks is None else [told]


def _budget(results: Sequence[Result]) -> list[str]:
    """What the training of a run may take; where rows differ, what most have, and who else."""
    trained = {one.spec.label: told_budget(one.spec.train) for one in results if one.spec.train}
    if not trained:
        return []
    usual, _ = Counter(trained.values()).most_common(1)[0]
    others = [f"{label} {budget}" for label, budget in trained.items() if budget != usual]
    return [f"budget: {usual} a run" + (f"; but {', '.join(others)}" if others else "")]


def _tested(results: Sequence[Result]) -> list[str]:
    """The fragments with a test region in any fold, and whether each fold tests another part of one."""
    parts: dict[str, dict[str, set[str]]] = {}
    for result in results:
        for name, rects in result.spec.test_rects.items():
            parts.setdefault(name, {}).setdefault(str(rects), set()).add(result.spec.fold)
    return [name if len(of) == 1 else f"{name} (another part in each of {len(of)} folds)" for name, of in parts.items()]


def _by_fold(results: Sequence[Result], told: Callable[[Result], str]) -> str:
    """What is told of a test region: once where all folds have the same, else for each fold."""
    own = [result for result in results if not result.spec.labels_turned]  # turned labels are nobody's
    folds = {result.spec.fold for result in own}
    found = {result.spec.fold: text for result in own if (text := told(result))}
    if len(found) == len(folds) and len(set(found.values())) == 1:
        return next(iter(found.values()))
    return "; ".join(f"{text} (fold {fold})" for fold, text in sorted(found.items()))


def _agreement(result: Result) -> str:
    agreement = result.controls.get("label_agreement") or {}
    return ", ".join(f"{what} {agreement[key]:.3f}" for what, key in _AGREEMENT if agreement.get(key) is not None)


def _ink(result: Result) -> str:
    share = result.quality.get("prevalence")
    return "" if share is None else f"{100 * share:.1f} %"


def _tuning(results: Sequence[Result]) -> list[str]:
    """What was tried for every row, and what won."""
    tuned = [result.spec for result in results if result.spec.tried and not result.spec.labels_turned]
    if not tuned:
        return []
    tried = tuned[0].tried
    values = ", ".join(f"{key} {' or '.join(map(str, of_key))}" for key, of_key in tried.items())
    won: dict[str, dict[str, str]] = {}
    for spec in tuned:
        won.setdefault(spec.label, {})[spec.fold] = ", ".join(f"{key} {spec.train.get(key)}" for key in tried)
    told = (f"{label} {' / '.join(dict.fromkeys(of_fold.values()))}" for label, of_fold in won.items())
    return [
        f"tuned: {prod(map(len, tried.values()))} trials for each trained row and fold ({values}), chosen by Dice on "
        f"validation strips, never on test: {'; '.join(told)}"
    ]


def _where(results: Sequence[Result]) -> list[str]:
    """On which machines, with which versions."""
    labels: dict[str, set[str]] = {}
    for result in results:
        labels.setdefault(str(result.environment.get("hardware", "unknown")), set()).add(result.spec.label)
    commits = sorted({result.environment.get("commit") or "unknown" for result in results})
    torch = sorted({str(result.environment.get("versions", {}).get("torch", "unknown")) for result in results})
    found = [f"{', '.join(labels)}; torch {', '.join(torch)}; commit {', '.join(commits)}"]
    if (ranked := commit() or "unknown") not in commits:
        found[0] += f", ranked by commit {ranked}"
    if len(labels) > 1:
        told = "; ".join(f"{hardware}: {', '.join(sorted(of))}" for hardware, of in labels.items())
        found.append(f"seconds and memory of different machines cannot be compared: {told}")
    return found


_AGREEMENT = (("Dice", "dice"), ("F0.5", "f05"), ("accuracy", "accuracy"), ("surface Dice", "surface_dice"))

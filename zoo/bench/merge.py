"""`python -m zoo.bench report DIR…`: the leaderboard of one bench anew, or of several that ran on several machines."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from rich.markup import escape

from data_recipes.files import check_writable
from data_recipes.fragment import Fragment, open_fragments
from data_recipes.schema import describe
from data_recipes.stamp import data_stamp
from zoo.bench.plan import RunSpec
from zoo.bench.report import make_console, report
from zoo.bench.result import RESULT_FILE, Result, load_result, write_whole
from zoo.bench.runner import LOCK_FILE
from zoo.bench.suite import Suite

if TYPE_CHECKING:
    from zoo.bench.__main__ import ReportOptions

RECORD = "bench.json"
_LONGEST = 60  # characters of two values that are told
_NAMED = 3  # differences that a message lists before it only counts
_OF_A_ROW = (
    *("model", "options", "floor", "labels_turned", "budget", "trial", "tried", "failed_trials", "train"),
    "start_sha256",
)
_OF_A_PLACE = ("data", "device", "start_from")
_OF_A_PART = {"about", "models", "floors", "folds", "seeds", "budgets", "labels_turned"}


class BenchRecord(BaseModel):
    """What the bench in a folder last was: its suite, and the runs that belong to it."""

    model_config = ConfigDict(extra="forbid")

    suite: Suite
    runs: list[str]
    own_data: bool = False

    def save(self, out: Path) -> None:
        write_whole(out / RECORD, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> BenchRecord:
        """The record in a folder.

        Raises:
            FileNotFoundError, ValueError: none is there, or none of this version.
        """
        path = folder / RECORD
        if not path.is_file():
            raise FileNotFoundError(f"{folder}: holds no bench ({RECORD} is missing); give the --out of one")
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise ValueError(f"{path}: not a bench of this version: {describe(error, cls)}") from None


def keep_record(out: Path, suite: Suite, specs: Sequence[RunSpec], *, own_data: bool) -> None:
    """Note what the bench in this folder is: these runs, and those noted before that belong to it, so that `report`
    shows all, whichever of two benches at once notes first.

    A run noted before belongs to it when it can be compared with these, or, as long as it has not ended, when its suite
    asked for the same. Call it again once these have ended: by then more of the others have, and are known for sure.
    """
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / LOCK_FILE):
        runs = [spec.run_id for spec in specs]
        try:
            earlier = BenchRecord.load(out)
        except (FileNotFoundError, ValueError):
            earlier = BenchRecord(suite=suite, runs=[])
        alike = _asks_the_same(suite, earlier.suite)
        kept = [run for run in earlier.runs if run not in runs and _belongs(out, run, suite, specs, earlier, alike)]
        whole = _both(suite, earlier.suite) if kept else suite
        BenchRecord(suite=whole, runs=runs + kept, own_data=own_data).save(out)


def _belongs(out: Path, run: str, suite: Suite, specs: Sequence[RunSpec], earlier: BenchRecord, alike: bool) -> bool:
    path = out / "runs" / run / RESULT_FILE
    if not path.is_file():
        return alike
    try:
        check_comparable({"now": (suite, specs), "before": (earlier.suite, [load_result(path).spec])})
    except ValueError:
        return False
    return True


def _asks_the_same(one: Suite, other: Suite) -> bool:
    """Whether two suites differ in no more than which rows, folds, seeds, budgets and controls of a bench they run."""
    rows = [{entry.label or entry.name: entry for entry in suite.models} for suite in (one, other)]
    shared = [suite.model_dump(exclude=_OF_A_PART) for suite in (one, other)]
    return shared[0] == shared[1] and all(rows[0][label] == rows[1][label] for label in rows[0].keys() & rows[1].keys())


def _both(one: Suite, other: Suite) -> Suite:
    """The first suite with the rows, floors, folds, seeds, budgets and controls of both."""
    rows = {entry.label or entry.name: entry for entry in (*other.models, *one.models)}
    changed: dict[str, Any] = {
        key: list(dict.fromkeys([*getattr(one, key), *getattr(other, key)])) for key in ("floors", "seeds", "budgets")
    }
    folds = list(dict.fromkeys([*one.folds, *other.folds])) if one.folds and other.folds else []  # none named: all
    turned = one.labels_turned or other.labels_turned
    return one.model_copy(update={**changed, "models": [*rows.values()], "folds": folds, "labels_turned": turned})


def report_command(options: ReportOptions) -> int:
    """Write the leaderboard of the benches in `options.folders` into `options.out`; 0, or 1 where a run had failed.

    Raises:
        FileNotFoundError, ValueError: no bench there, nothing finished in it, or benches that cannot be compared.
    """
    console = make_console()
    if not options.folders:
        raise ValueError("report takes the folder of a finished bench (its --out), or several; got none")
    folders = [folder.resolve() for folder in options.folders]
    if twice := [str(folder) for folder in folders if folders.count(folder) > 1]:
        raise ValueError(f"{twice[0]} is given {len(twice)} times; give each bench once")
    records = {folder: BenchRecord.load(folder) for folder in folders}
    found = {folder: _finished(folder, record) for folder, record in records.items()}
    check_comparable(
        {str(folder): (records[folder].suite, [result.spec for result in found[folder]]) for folder in folders}
    )
    out = (options.out or folders[0]).resolve()
    if len(folders) > 1 and out in folders:
        raise ValueError(f"--out {out}: is one of the benches; what they make together needs a folder of its own")
    check_writable(out)
    results = _together(found, out, console)
    suite = reduce(_both, (record.suite for record in records.values()))
    first = records[folders[0]]
    if out != folders[0]:
        record = first.model_copy(update={"suite": suite, "runs": [result.run_id for result in results]})
        record.save(out)
    fragments = _fragments(results, console) if options.pictures else {}
    report(
        results,
        fragments,
        suite,
        out,
        console,
        own_data=first.own_data,
        pictures=bool(fragments),
    )
    return 0 if all(result.status == "ok" for result in results) else 1


def check_comparable(benches: Mapping[str, tuple[Suite, Sequence[RunSpec]]]) -> None:
    """All runs must have been split, trained and scored alike but for their model, fold, seed and machine.

    Raises:
        ValueError: with the first two benches that differ, and in what.
    """
    seen: dict[str, tuple[str, Any]] = {}
    for name, (suite, specs) in benches.items():
        for spec in specs:
            said = {"split": suite.split, **_shared(spec)}
            firsts = {what: seen.setdefault(what, (name, value)) for what, value in said.items()}
            if differ := {what: value for what, (_, value) in firsts.items() if value != said[what]}:
                told = [_difference(what, value, said[what]) for what, value in differ.items()]
                more = f"; and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
                raise ValueError(
                    f"{firsts[next(iter(differ))][0]} and {name} cannot be compared: {'; '.join(told[:_NAMED])}{more}"
                )


def _difference(what: str, one: Any, other: Any) -> str:
    """In words: the values where they are short, of several settings those that differ."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        told = f"{one!r} and {other!r}"
        return f"{what} differ" + (f" ({told})" if len(told) <= _LONGEST else "")
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return ", ".join(_difference(f"{key} of {what}", one.get(key), other.get(key)) for key in keys)


def _shared(spec: RunSpec) -> dict[str, Any]:
    """What a run must have in common with every other that says the same of it."""
    everything = spec.model_dump(mode="json")
    rects = {key: everything.pop(key) for key in ("train_rects", "calibration_rects", "test_rects")}
    own = {key: everything.pop(key) for key in _OF_A_ROW}
    own["train"].pop("seed", None)
    label, fold, seed = (everything.pop(key) for key in ("label", "fold", "seed"))
    for of_a_place in _OF_A_PLACE:
        del everything[of_a_place]
    return {**everything, f"regions of fold {fold}, seed {seed}": rects, f"settings of {label} in fold {fold}": own}


def _finished(folder: Path, record: BenchRecord) -> list[Result]:
    """Results of the runs of a bench that have ended, failed ones too."""
    paths = [folder / "runs" / run / RESULT_FILE for run in record.runs]
    results = [load_result(path) for path in paths if path.is_file()]
    if not results:
        raise ValueError(f"{folder}: none of its {len(paths)} runs has ended; give the command that made it again")
    return results


def _together(found: Mapping[Path, Sequence[Result]], out: Path, console: Console) -> list[Result]:
    """Each run once, its folder in `out`; of two of one model, fold and seed the one that succeeded, of two that did
    the one of less Dice: which of two machines made the better one is chance, and not to be chosen after looking.
    """
    kept: dict[tuple[str, str, int], tuple[Path, Result]] = {}
    for folder, results in found.items():
        for result in results:
            key = result.spec.label, result.spec.fold, result.spec.seed
            earlier = kept.get(key)
            if earlier is None or _worth(result) > _worth(earlier[1]):
                kept[key] = (folder, result)
            if earlier is not None and "ok" == result.status == earlier[1].status:
                told = (
                    f"{key[0]}, fold {key[1]}, seed {key[2]}: in {earlier[0]} and {folder}, the one of less Dice counts"
                )
                console.print(f"[dim]{escape(told)}[/]")
    for folder, result in kept.values():
        if folder != out:
            _copy(folder / "runs" / result.run_id, out / "runs" / result.run_id)
    return [result for _, result in kept.values()]


def _worth(result: Result) -> tuple[bool, float]:
    return result.status == "ok", -(result.quality.get("dice") or 0.0)


def _copy(source: Path, target: Path) -> None:
    """A run's files without its checkpoint; the result last, so that a run is whole or not there."""
    target.mkdir(parents=True, exist_ok=True)
    files = [file for file in source.iterdir() if file.suffix in (".npy", ".npz")]
    for file in [*files, source / RESULT_FILE]:
        partial = target / f"{file.name}.partial"
        shutil.copyfile(file, partial)
        partial.replace(target / file.name)


def _fragments(results: Sequence[Result], console: Console) -> dict[str, Fragment]:
    """The fragments that were tested, where they lie here as they were; nothing where one is missing or has changed."""
    try:
        fragments = open_fragments(results[0].spec.data)
        now = {name: data_stamp(fragment) for name, fragment in fragments.items()}
    except (OSError, ValueError) as error:
        console.print(f"no pictures: {escape(str(error))}")
        return {}
    if changed := [name for name, stamp in results[0].spec.stamps.items() if now.get(name) != stamp]:
        console.print(f"no pictures: {escape(', '.join(changed))} is not what it was when the runs were made")
        return {}
    return fragments

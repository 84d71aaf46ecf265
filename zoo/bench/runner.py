"""Runs the plan: each stage in a fresh process, finished runs skipped, a failing run recorded and passed over.

The stages of a run are `train`, those of `zoo.bench.cost` unless this configuration has been measured, and `score`. A
cost that cannot be measured is noted, and the run goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.markup import escape

from data_recipes.phantom import cache_folder
from zoo.bench.cost import STAGES, cost_file, read_cost, stage_file
from zoo.bench.plan import RunSpec
from zoo.bench.result import RESULT_FILE, Result, load_result, write_whole
from zoo.bench.worker import INTERRUPTED, SPEC_FILE, TRAINED_FILE

LEDGER = "scored.txt"
LOCK_FILE = ".lock"
_LISTEN_SECONDS = 1.0  # Ray's interruption, unlike a signal, does not wake who waits in the system


def run_all(specs: list[RunSpec], out: Path, console: Console) -> list[Result]:
    """Run what is not finished yet; the results of all, in the plan's order. Ctrl-C raises KeyboardInterrupt.

    Several benches may share a folder: a run that another one is at is left to it and waited for at the end, so that
    the same command given twice shares the work out.
    """
    results: dict[int, Result] = {}
    others: list[int] = []
    for number in range(len(specs)):
        try:
            results[number] = _once(specs, number, out, console, wait=False)
        except Timeout:
            console.print(f"{head(specs, number)}  [dim]another bench is at it[/]")
            others.append(number)
    for number in others:
        results[number] = _once(specs, number, out, console, wait=True)
    return [results[number] for number in range(len(specs))]


def head(specs: list[RunSpec], number: int) -> str:
    """What a run is called on the console."""
    spec = specs[number]
    return f"[bold]{number + 1}/{len(specs)}[/] {escape(spec.label)}  fold {escape(spec.fold)}  seed {spec.seed}"


def outcome(done: Result) -> str:
    """The line that says how a run ended."""
    if done.status != "ok":
        return f"    [red]{done.status.replace('_', ' ')}[/]: {escape(done.reason)}"
    auc = done.quality.get("auc")
    return f"    Dice {done.quality['dice']:.3f}" + (f"  AUC {auc:.3f}" if auc is not None else "")


def _once(specs: list[RunSpec], number: int, out: Path, console: Console, *, wait: bool) -> Result:
    """The result of one run, made here unless there is one; Timeout where another bench is at it and `wait` is off."""
    with _hold(specs[number], out, wait=wait) as folder:
        done = _ended(folder, failed_too=wait)
        if done is not None:
            console.print(f"{head(specs, number)}  [dim]finished before, kept[/]")
            return _counted(done, folder)
        console.print(head(specs, number))
        done = _counted(_run(specs[number], folder, console), folder)
        console.print(outcome(done))
        return done


def make_run(spec: RunSpec, out: Path, *, wait: bool) -> tuple[Result, bool]:
    """The result of one run, and whether it was made just now: `_once` on a machine that works for another one's bench.

    That one counts it, with `count_run`. Timeout where another bench is at it and `wait` is off.
    """
    with _hold(spec, out, wait=wait) as folder:
        done = _ended(folder, failed_too=wait)
        return (_run(spec, folder), True) if done is None else (done, False)


def count_run(done: Result, out: Path) -> Result:
    """The result of `make_run`, with the number of its scoring."""
    with _hold(done.spec, out, wait=True) as folder:
        return _counted(finished(folder) or done, folder)


@contextlib.contextmanager
def _hold(spec: RunSpec, out: Path, *, wait: bool) -> Iterator[Path]:
    """A run's folder, for this process alone; Timeout where another one is at it and `wait` is off."""
    folder = out / "runs" / spec.run_id
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK_FILE, timeout=-1 if wait else 0):  # a killed process holds no lock
        yield folder


def _ended(folder: Path, *, failed_too: bool) -> Result | None:
    """The result that stands in a run's folder; None where it is to be made.

    `failed_too`: another bench was waited for, so that a failure stands as well, and is not tried again at once.
    """
    if failed_too and (folder / RESULT_FILE).is_file():
        return load_result(folder / RESULT_FILE)
    return finished(folder)


def _counted(done: Result, folder: Path) -> Result:
    """The result of a run that is held, with the number of its scoring: counted once, by whoever comes to it first.

    Trials and runs on turned labels do not count: neither was scored on the test region's own labels.
    """
    counts = not (done.spec.trial or done.spec.labels_turned)
    if done.status == "ok" and counts and not done.times_scored:
        done.times_scored = _count_scoring(done.spec)
        done.save(folder)
    return done


def finished(folder: Path) -> Result | None:
    """The result in a run's folder if that run succeeded; None where it must be run."""
    path = folder / RESULT_FILE
    if not path.is_file():
        return None
    result = load_result(path)
    return result if result.status == "ok" else None


def _run(spec: RunSpec, folder: Path, console: Console | None = None) -> Result:
    (folder / RESULT_FILE).unlink(missing_ok=True)
    write_whole(folder / SPEC_FILE, spec.model_dump_json(indent=1))
    trained = spec.floor or (folder / TRAINED_FILE).is_file()  # a run whose scoring failed keeps its checkpoint
    if not trained and (failed := _stage("train", spec, folder)):
        return failed
    if not spec.floor:
        _measure(spec, folder, console)
    if console is not None:
        console.print("    [dim]predicting and scoring[/]")
    return _stage("score", spec, folder) or load_result(folder / RESULT_FILE)


def _stage(stage: str, spec: RunSpec, folder: Path) -> Result | None:
    """Run a stage in a process of its own; a Result where it failed. KeyboardInterrupt where it was interrupted."""
    code = _worker(stage, folder)
    if not code:
        return None
    return load_result(folder / RESULT_FILE) if (folder / RESULT_FILE).is_file() else _killed(spec, folder, stage, code)


def _measure(spec: RunSpec, folder: Path, console: Console | None = None) -> None:
    """Leave the figures of each stage of the cost, or the reason for none, in a run's folder; see `stage_file`.

    What another run of this configuration has found is copied. What has failed is tried once more by the next run.
    """
    kept = cost_file(spec, folder.parents[1])
    kept.parent.mkdir(exist_ok=True)
    with FileLock(kept.with_suffix(".lock")):  # two benches at once would measure each other
        found = read_cost(kept)
        for stage in STAGES:
            own = folder / stage_file(stage)
            own.unlink(missing_ok=True)
            if stage in found:
                write_whole(own, json.dumps({"figures": found[stage]}))
                continue
            if console is not None:
                console.print(f"    [dim]measuring the {stage.replace('-', ' of ')}[/]")
            code = _worker(stage, folder)
            if code and not own.is_file():
                write_whole(own, json.dumps({"reason": _why(code)}))
            if not code:
                found[stage] = read_cost(own)["figures"]
                write_whole(kept, json.dumps(found, indent=1) + "\n")


def _worker(stage: str, folder: Path) -> int:
    code = _child([sys.executable, "-m", "zoo.bench.worker", stage, str(folder)])
    if code in (INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    return code


def _child(command: list[str]) -> int:
    """Run to the end. On an interruption the child is told to stop, too; it saves what it has before it does."""
    # Threads that wait asleep cost little alone; spinning, they stall each step for seconds once another process runs.
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
    with subprocess.Popen(command, env=environment) as process:
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(_LISTEN_SECONDS)
        except KeyboardInterrupt:
            process.terminate()  # a SIGTERM to the bench alone must not leave its worker behind
            process.wait()
            raise


def _killed(spec: RunSpec, folder: Path, stage: str, code: int) -> Result:
    """A Result for a process that left no word."""
    status = "out_of_memory" if code == -signal.SIGKILL else "failed"
    result = Result(run_id=spec.run_id, status=status, reason=f"{stage}: {_why(code)}", spec=spec)
    result.save(folder)
    return result


def _why(code: int) -> str:
    if code == -signal.SIGKILL:
        return "killed by the system, most likely out of memory; use a smaller --tile or --batch-size"
    return f"ended with status {code} and no word"


# Which strips are kept for validation follows the seed; who trains on more or less of the rest looks at the same test.
_NOT_OF_CONFIGURATION = {"seed", "label", "data", "device", "suite", "version", "start_from"} | {
    "train_rects",
    "calibration_rects",
}


def _count_scoring(spec: RunSpec) -> int:
    """How often any run of this configuration, whatever its seed, has now been scored on this test region.

    The ledger lies in the user's cache folder, so that another --out does not start it anew.
    """
    what = spec.model_dump(mode="json", exclude=_NOT_OF_CONFIGURATION, exclude_defaults=True)
    what["train"] = {key: value for key, value in spec.train.items() if key != "seed"}
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    ledger = cache_folder() / LEDGER
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with ledger.open("a+", encoding="utf-8") as stream:
        stream.write(key + "\n")
        stream.seek(0)
        return sum(line.strip() == key for line in stream)

"""What a training run says of itself when it has ended, in memory and beside its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_recipes.files import whole_file

_FILE = "finished.json"


@dataclass(frozen=True)
class TrainReport:
    """What a finished run did.

    Attributes:
        steps, seconds, samples: of the whole run, data loading included; what was done before a resume too.
        step_seconds: median over the steps of this process.
        losses: `loss` and its parts, means over the last tenth of the log.
        curve: (step, mean loss since the point before), at most `zoo.train.log.CURVE_POINTS`.
        peak_bytes, peak_kind, peak_reserved: as `zoo.memory.PeakMemory` has them, the weights among them.
        precision, device, micro_batch: what was used in the end.
        best_ap: highest AP of a validation; None without any.
        checkpoint, log: where they lie.
        laps: seconds a step by what they went to, where `profile` was asked for.
    """

    steps: int
    seconds: float
    samples: int
    step_seconds: float
    losses: dict[str, float]
    curve: list[tuple[int, float]]
    peak_bytes: int
    peak_kind: str
    peak_reserved: int | None
    precision: str
    device: str
    micro_batch: int
    best_ap: float | None
    checkpoint: str
    log: str
    laps: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class TrainingDiverged(ValueError):
    """The loss or its gradient is not finite; the message names the batch's tiles and the checkpoint from before it."""


def keep_report(out: Path, report: TrainReport, who: Mapping[str, Any]) -> None:
    """Write `out`/finished.json, which says that the run has ended; before its states go."""
    with whole_file(out / _FILE) as partial:
        partial.write_text(json.dumps({"who": dict(who), "report": report.as_dict()}, indent=1), encoding="utf-8")


def forget_report(out: Path) -> None:
    """Remove what `keep_report` left."""
    (out / _FILE).unlink(missing_ok=True)


def has_ended(out: Path) -> bool:
    """Whether a run has left its report in a folder."""
    return (out / _FILE).is_file()


def finished_report(out: Path, who: Mapping[str, Any], *, resume: bool) -> TrainReport | None:
    """The report of the run that has ended in `out`, where it is to be resumed; None where there is none.

    Raises:
        ValueError: a run has ended there and is not to be resumed, or has other settings.
    """
    path = out / _FILE
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        was, report = stored["who"], TrainReport(**stored["report"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a report of this project ({error}); remove it, or give another --out") from None
    if not resume:
        raise ValueError(f"{out} holds a run that has ended; give another --out, or --overwrite to start anew")
    check_same(was, who, out)
    return report


def check_same(was: Mapping[str, Any], who: Mapping[str, Any], out: Path) -> None:
    """Raise ValueError that names every setting in which two runs differ; what the older one does not tell is passed
    over."""
    differ = [f"{key} was {value!r}, is {who.get(key)!r}" for key, value in was.items() if who.get(key) != value]
    if differ:
        raise ValueError(
            f"{out} holds a run with other settings: {'; '.join(differ)}; give those, or another --out (and "
            f"--start-from {out / 'last.safetensors'}, to train on from its weights)"
        )

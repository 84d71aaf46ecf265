"""What a run writes down as it goes: JSON lines always, TensorBoard scalars and tiles where asked for."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from data_recipes.files import whole_file

CURVE_POINTS = 200


class RunLog:
    """`folder`/log.jsonl, one object a line, and `folder`/tensorboard; use it as a context manager.

    A run that is gone on from `step` keeps the lines up to it and writes the later ones anew. A log that is not
    `active` (any process of a run but the first) writes nothing.
    """

    def __init__(self, folder: Path, *, step: int = 0, tensorboard: bool = False, active: bool = True):
        self.path, self.active = folder / "log.jsonl", active
        if not active:
            return
        kept = [line for line in read_log(self.path) if line["step"] <= step] if step else []
        with whole_file(self.path) as partial:  # a kill in here must not cost what was logged before
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._stream = self.path.open("a", encoding="utf-8")
        self._board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # takes seconds to load

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self.active:
            self._stream.close()
            if self._board is not None:
                self._board.close()

    def write(self, step: int, values: Mapping[str, float], tiles: Tensor | None = None) -> None:
        """One line, and a scalar each; `tiles` (n, k, H, W) from 0 to 1 become one picture, a row each."""
        if not self.active:
            return
        told = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no inf
        self._stream.write(json.dumps({"step": step, **told}) + "\n")
        self._stream.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
            if tiles is not None and len(tiles):
                self._board.add_image("layer, label, prediction", _grid(tiles), step, dataformats="HW")


def _grid(tiles: Tensor) -> Tensor:
    """(n, k, H, W) -> (n·H, k·W): a row a tile."""
    count, across, height, width = tiles.shape
    return tiles.permute(0, 2, 1, 3).reshape(count * height, across * width)


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a log; a last one that was cut short is left out."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def curve(path: Path, points: int = CURVE_POINTS) -> list[tuple[int, float]]:
    """(step, mean loss since the point before) of a log, at most `points`."""
    losses = [(int(line["step"]), line["loss"]) for line in read_log(path) if "loss" in line]
    count = len(losses)
    ends = sorted({count * (k + 1) // min(points, count) for k in range(min(points, count))})
    starts = [0, *ends[:-1]]
    return [
        (losses[end - 1][0], statistics.fmean(loss for _, loss in losses[begin:end]))
        for begin, end in zip(starts, ends, strict=True)
    ]


def late_losses(path: Path, step: int) -> dict[str, float]:
    """The mean of `loss` and each of its parts, over the lines of the last tenth of `step` steps."""
    lines = [line for line in read_log(path) if "loss" in line]
    means = mean_of([line for line in lines if line["step"] > 0.9 * step] or lines)
    return {key: value for key, value in means.items() if key not in ("step", "lr", "grad_norm", "seconds")}


def mean_of(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every entry, over those that have it."""
    return {
        key: statistics.fmean(values)
        for key in losses[0]
        if (values := [entry[key] for entry in losses if entry.get(key) is not None])
    }

"""The map while it is being made: a zarr that several processes may fill, each shard by one of them, and its record.

The work lies in `OUT.partial`: the zarr, and in it a folder `.inkzoo` with the plan, one empty file for each shard that
is done, and a lock for each part that is at work. A shard is one file that appears whole, and is noted after it is
there; so whoever was killed loses the shard it was at, and the same command goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import ValidationError

from data_recipes.files import whole_file
from data_recipes.schema import describe
from zoo.predict.plan import Plan

PARTIAL = ".partial"
_RECORD, _PLAN, _DONE, _BEGIN = ".inkzoo", "plan.json", "done", "begin.lock"


class MapStore:
    """An unfinished map in the folder `path`. Make it with `begin`, find it again with `resume`."""

    def __init__(self, path: Path, plan: Plan):
        self.path, self.plan, self.grid = path, plan, plan.grid()
        self._done = path / _RECORD / _DONE
        self._array: Any = None

    @classmethod
    def begin(cls, path: Path, plan: Plan) -> MapStore:
        """Make the store, or go on with the one that is there.

        Raises:
            ValueError: what is there was begun with other settings, and some of it is done or being made.
        """
        record = path / _RECORD
        record.mkdir(parents=True, exist_ok=True)
        with FileLock(record / _BEGIN):
            if (record / _PLAN).is_file():
                there = cls.resume(path)
                differ = there.plan.differences(plan)
                if not differ:
                    return cls(path, plan)
                if len(there.missing()) < len(there.grid) or any(map(_held, record.glob("part-*.lock"))):
                    raise ValueError(
                        f"{path}: was begun with another {', '.join(differ)}; remove it, or repeat the first command"
                    )
            _remove_all_but_lock(path)
            _create(path, plan)
            (record / _DONE).mkdir(exist_ok=True)
            with whole_file(record / _PLAN) as draft:
                draft.write_text(plan.model_dump_json(indent=1), encoding="utf-8")
        return cls(path, plan)

    @classmethod
    def resume(cls, path: Path) -> MapStore:
        """The store that lies there.

        Raises:
            FileNotFoundError: none does.
            ValueError: its plan cannot be read.
        """
        file = path / _RECORD / _PLAN
        if not file.is_file():
            raise FileNotFoundError(f"{path}: no unfinished map lies here")
        try:
            return cls(path, Plan.model_validate_json(file.read_text(encoding="utf-8")))
        except ValidationError as error:
            raise ValueError(
                f"{file}: not a plan of this version: {describe(error, Plan)}; remove {path} to begin anew"
            ) from None

    @contextmanager
    def claim(self, part: int, parts: int) -> Iterator[None]:
        """Hold part `part` of `parts` (from 0) while the block runs.

        Raises:
            ValueError: another process is at this part, or at a part of another division.
        """
        record = self.path / _RECORD
        mine = record / f"part-{part}-of-{parts}.lock"
        with FileLock(record / _BEGIN):
            for other in record.glob("part-*.lock"):
                if other == mine or other.name.endswith(f"-of-{parts}.lock"):
                    continue
                if _held(other):
                    raise ValueError(
                        f"{self.path}: another process is at {other.stem} of it; give all parts the same number"
                    )
                other.unlink(missing_ok=True)  # of an earlier division, which counts no more
            try:
                claimed = FileLock(mine).acquire(timeout=0)
            except Timeout:
                raise ValueError(
                    f"{self.path}: another process is at part {part} of its {parts}; wait for it"
                ) from None
        with claimed:
            yield

    def is_done(self, shard: int) -> bool:
        return (self._done / str(shard)).exists()

    def missing(self) -> list[int]:
        """Shards that are not done."""
        there = {name.name for name in self._done.iterdir()} if self._done.is_dir() else set()
        return [shard for shard in range(len(self.grid)) if str(shard) not in there]

    def parts(self) -> int:
        """Into how many parts the work was divided, the last time that somebody began one."""
        numbers = [int(lock.stem.rsplit("-", 1)[1]) for lock in (self.path / _RECORD).glob("part-*.lock")]
        return max(numbers, default=1)

    def missing_parts(self, parts: int) -> list[tuple[int, int]]:
        """(part, shards it lacks) of a division into `parts`."""
        missing = set(self.missing())
        lacks = [(part, len(missing.intersection(self.plan.part(part, parts)))) for part in range(parts)]
        return [(part, count) for part, count in lacks if count]

    def write(self, shard: int, prob: NDArray[np.float32] | None) -> None:
        """Write a shard's probabilities, or note that there are none to write, and that it is done."""
        if prob is not None:
            if self._array is None:
                import zarr

                self._array = zarr.open_array(self.path / "0", mode="r+")
            rect = self.grid.rect(shard)
            self._array[rect.slices] = stored(prob, self.plan.dtype)
        (self._done / str(shard)).touch()

    def note(self, mark: str) -> None:
        """Leave a mark in the record that other processes see."""
        (self.path / _RECORD / mark).touch()

    def noted(self, mark: str) -> bool:
        return (self.path / _RECORD / mark).exists()

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Hold the store alone while the block runs, after whoever else is finishing it."""
        with FileLock(self.path / _RECORD / "finish.lock"):
            yield

    def settle(self, out: Path) -> None:
        """Give a finished map its name. The record goes last: whatever happens, the map is whole or unfinished.

        Raises:
            FileExistsError: something has that name by now.
        """
        for draft in self.path.rglob("*.partial"):  # a chunk that was being written when a process was killed
            draft.unlink()
        if out.exists():
            raise FileExistsError(f"{out}: exists already; the map lies complete in {self.path}")
        self.path.rename(out)
        remove_record(out)

    def remove(self) -> None:
        """Remove the store; first its record, so that what is left is never taken for a map."""
        remove_record(self.path)
        shutil.rmtree(self.path)


def remove_record(path: Path) -> None:
    """Remove the record inside a finished map, if there is one; its plan first, without which it counts for nothing."""
    if (path / _RECORD).is_dir():
        (path / _RECORD / _PLAN).unlink(missing_ok=True)
        shutil.rmtree(path / _RECORD, ignore_errors=True)


def stored(prob: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Probability as it is stored: of uint8 the nearest of 255 steps, or float16."""
    if dtype == "uint8":
        return np.rint(np.clip(prob, 0, 1) * np.float32(255)).astype(np.uint8)
    return prob.astype(np.float16)


def _held(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _remove_all_but_lock(path: Path) -> None:
    """What a process left that was killed before there was a plan, or a plan of which nothing is done."""
    record = path / _RECORD
    for found in [*record.iterdir(), *path.iterdir()]:
        if found not in (record, record / _BEGIN):
            shutil.rmtree(found) if found.is_dir() else found.unlink()


def _create(path: Path, plan: Plan) -> None:
    import zarr

    create_level(zarr.open_group(path, mode="a", zarr_format=plan.zarr_format), "0", plan, plan.shape)


def create_level(group: Any, name: str, plan: Plan, shape: tuple[int, int]) -> Any:
    """One level of the map: sharded in zarr v3; in v2, which has no shards, a file a chunk."""
    common: dict[str, Any] = {"shape": shape, "dtype": plan.dtype, "chunks": (plan.chunk,) * 2, "fill_value": 0}
    if plan.zarr_format == 2:
        from numcodecs import Zstd

        separated = {"name": "v2", "separator": "/"}
        return group.create_array(name, compressors=Zstd(level=3), chunk_key_encoding=separated, **common)
    from zarr.codecs import ZstdCodec

    return group.create_array(
        name,
        shards=(plan.shard,) * 2,
        compressors=ZstdCodec(level=3),
        dimension_names=("y", "x"),
        **common,
    )

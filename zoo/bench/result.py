"""One JSON file a run: what was run, how good it was, what it cost. Leaderboards are computed from these alone."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from data_recipes.files import whole_file
from data_recipes.schema import describe
from zoo.bench.plan import RunSpec

SCHEMA = 1
RESULT_FILE = "result.json"
_REPORTED = ("inkzoo", "torch", "numpy", "segment-anything", "monai", "segmentation-models-pytorch", "zarr")

Status = Literal["ok", "failed", "out_of_memory"]


class Result(BaseModel):
    """Everything about one run.

    quality: Dice, F0.5, … over all test pixels; per_fragment: the same for each test fragment; controls: nulls and
    leak; cost: parameters, seconds, bytes; curve: (step, loss); tiles: how many, and what fell short.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA
    run_id: str
    status: Status
    reason: str = ""
    spec: RunSpec
    quality: dict[str, float | None] = {}
    per_fragment: dict[str, dict[str, float | None]] = {}
    threshold: float | None = None
    controls: dict[str, Any] = {}
    contract: dict[str, Any] = {}
    cost: dict[str, Any] = {}
    curve: list[tuple[float, float]] = []
    tiles: dict[str, Any] = {}
    notes: list[str] = []
    environment: dict[str, Any] = {}
    times_scored: int = 0

    def save(self, folder: Path) -> Path:
        """Write `folder`/result.json; it appears whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / RESULT_FILE
        write_whole(path, self.model_dump_json(indent=1) + "\n")
        return path


def load_result(path: Path) -> Result:
    """Read a result file; ValueError with what is wrong where it is not one."""
    try:
        return Result.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ValueError(
            f"{path}: not a result of this version: {describe(error, Result)}; delete it to run it again"
        ) from None


def write_whole(path: Path, text: str) -> None:
    """Write a text file that is whole under its own name, or absent."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def environment(device: str) -> dict[str, Any]:
    """Versions, hardware and commit of this run."""
    versions = {"python": platform.python_version()}
    for name in _REPORTED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"versions": versions, "device": device, "hardware": hardware(device), "commit": commit()}


def hardware(device: str) -> str:
    """The GPU's name, or the processor's and how many threads compute on it."""
    import torch

    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    return f"{_processor()} × {torch.get_num_threads()}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def commit() -> str:
    """The checkout's commit, with a + where files differ from it; empty outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        git(
            "ls-files", "--error-unmatch", Path(__file__).name
        )  # an install inside another checkout is not that checkout
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return ""

"""The state of a running training: all that it takes to go on as if it had never stopped.

Weights, the optimizer's moments and averaged weights lie in one safetensors file, the counters in its metadata. No
random number generator is among them: every draw of a step is a function of (seed, step).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from data_recipes.tiles import TileDataset
from zoo.checkpoint import write_tensors
from zoo.models.base import InkModel
from zoo.models.layers import in_full
from zoo.train.report import check_same, forget_report

STATES = "state"  # the folder of a run's states in its own
FORMAT = "inkzoo-training-state"
KEEP = 2  # the newest and the one before it, should the newest turn out damaged
BOTH = "--resume goes on with the run that is there, --overwrite starts anew; give one of the two"
_OF_A_RUN = ("last.safetensors", "best.safetensors", "adapter-*.safetensors", "tensorboard/events.out.tfevents.*")
_MODEL, _AVERAGE, _OPTIMIZER = "model/", "average/", "optimizer/"


@dataclass
class Counters:
    """Where a run stands, besides its tensors.

    Attributes:
        step, seconds: done so far.
        micro_batch: tiles at once on a device, which running out of memory makes smaller.
        unlogged: losses of the steps since the last line of the log.
        best, since_best: highest AP of a validation, and the validations since.
        skipped: steps in a row that fp16 lost to an overflow.
        scaler: the fp16 gradient scaler's own state.
    """

    step: int = 0
    seconds: float = 0.0
    micro_batch: int = 0
    unlogged: list[dict[str, float]] = field(default_factory=list)
    best: float | None = None
    since_best: int = 0
    skipped: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)


def identity(
    name: str,
    options: Mapping[str, Any],
    model: InkModel,
    dataset: TileDataset,
    deciding: Mapping[str, Any],
    *,
    precision: str,
    processes: int,
) -> dict[str, Any]:
    """What a state must have been saved under to be gone on from: model, tiles and tasks, contract, settings, and what
    became of them on this machine: the precision that `auto` is here, and how many processes share a step."""
    table, digest = dataset.table, hashlib.sha256()
    for column in (table.fragment, table.y, table.x):
        digest.update(column.tobytes())
    return json.loads(
        json.dumps(
            {
                "model": name,
                "options": dict(options),
                "depth": model.depth,
                "tile": model.tile,
                "classes": model.classes,
                "contract": dataset.contract.model_dump(mode="json"),
                "tiles": f"{len(table)} of {', '.join(table.fragments)}, {digest.hexdigest()[:12]}",
                "tasks": dataset.tasks,
                "computed in": precision,
                "processes": processes,
                **deciding,
            }
        )
    )


def save_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None,
    counters: Counters,
    who: Mapping[str, Any],
    *,
    write: bool = True,
) -> Path:
    """Write `folder`/step-N.safetensors whole, then drop all but the newest `KEEP`.

    Called by every process of a run, because sharded tensors are gathered from all; only the one with `write` writes.

    Raises:
        OSError: it cannot be written; earlier states are left as they were.
    """
    names: dict[Tensor, str] = {parameter: key for key, parameter in model.named_parameters()}
    tensors = {_MODEL + key: tensor for key, tensor in model.state_dict().items()}
    if average is not None:
        tensors |= {_AVERAGE + key: tensor for key, tensor in average.state_dict().items()}
    for parameter, moments in optimizer.state.items():
        tensors |= {f"{_OPTIMIZER}{names[parameter]}/{key}": tensor for key, tensor in moments.items()}
    whole = gathered(tensors, keep=write)
    path = folder / f"step-{counters.step:09d}.safetensors"
    if not write:
        return path
    write_tensors(path, whole, {"format": FORMAT, "who": dict(who), "counters": vars(counters)})
    for old in states(folder)[KEEP:]:
        old.unlink(missing_ok=True)
    return path


def gathered(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Tensors in full in main memory, where they are to be kept; nothing elsewhere.

    Called by every process of a run. Sharded tensors are gathered one after another, so that no device holds more than
    one of them whole.
    """
    if keep:
        return {key: in_full(tensor.detach()).cpu() for key, tensor in tensors.items()}
    for tensor in tensors.values():
        in_full(tensor.detach())  # the one that keeps them needs this process's part
    return {}


def states(folder: Path) -> list[Path]:
    """The states in a folder, newest first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def drop_states(folder: Path) -> None:
    """Remove what an ended run no longer needs."""
    for path in states(folder):
        path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def clear_run(out: Path) -> None:
    """Remove what another run left in a folder, for one that starts anew: its word that it has ended, states and
    checkpoints, and what TensorBoard shows of it. What else lies there stays."""
    forget_report(out)
    for path in (path for pattern in _OF_A_RUN for path in out.glob(pattern)):
        path.unlink(missing_ok=True)
    drop_states(out / STATES)


def find_state(
    folder: Path, who: Mapping[str, Any], *, resume: bool, say: Callable[[str], None]
) -> tuple[Path, Counters] | None:
    """The newest whole state of a folder and its counters; None where there is none. Damaged ones are named in `say`.

    Raises:
        ValueError: there is one, and it is not to be resumed; or it is of a run with other settings.
    """
    there = states(folder)
    if there and not resume:
        raise ValueError(
            f"{folder.parent} holds an unfinished run ({there[0].stem}): --resume goes on with it, --overwrite starts "
            "anew; or give another --out"
        )
    for path in there:
        try:
            return path, read_counters(path, who)
        except BrokenState as broken:
            say(f"{broken}; it is passed over")
    if there:
        say(f"no whole state in {folder}: starting from the beginning")
    return None


def holds_whole_state(folder: Path) -> bool:
    """Whether a run can go on from any of the states in a folder."""
    for path in states(folder):
        try:
            _facts(path)
        except BrokenState:
            continue
        return True
    return False


def read_counters(path: Path, who: Mapping[str, Any]) -> Counters:
    """The counters of a state, checked to be of this very run.

    Raises:
        ValueError: damaged or foreign (`BrokenState`); or of a run with other settings, each named.
    """
    facts = _facts(path)
    check_same(facts["who"], who, path.parent.parent)
    return Counters(**facts["counters"])


def _facts(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {}).get("inkzoo", "{}"))
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise BrokenState(f"{path}: truncated or damaged ({error})") from error
    if facts.get("format") != FORMAT:
        raise BrokenState(f"{path}: not a training state of this project")
    return facts


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None) -> None:
    """Put a state's tensors into the model, the optimizer and the averaged model, in place and bit for bit."""
    parameters = dict(model.named_parameters())
    with safe_open(path, "pt") as file, torch.no_grad():
        keys = set(file.keys())
        for prefix, module in ((_MODEL, model), (_AVERAGE, average)):
            if module is not None:
                for key, own in module.state_dict().items():
                    own.copy_(_as(file.get_tensor(prefix + key), own))
        for key in sorted(key for key in keys if key.startswith(_OPTIMIZER)):
            name, _, moment = key.removeprefix(_OPTIMIZER).rpartition("/")
            stored, parameter = file.get_tensor(key), parameters[name]
            if stored.shape == parameter.shape:  # in the parameter's own layout, or sums would round another way
                stored = torch.empty_like(parameter).copy_(_as(stored, parameter))
            elif optimizer.defaults.get("fused"):  # such a kernel reads the count of steps on the device
                stored = stored.to(parameter.device)
            optimizer.state[parameter][moment] = stored


class BrokenState(ValueError):
    """A file that is no whole training state; the one before it may be."""


def _as(tensor: Tensor, like: Tensor) -> Tensor:
    """A full tensor as `like` is laid over the devices."""
    if not hasattr(like, "device_mesh"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)  # pyright: ignore[reportAttributeAccessIssue]

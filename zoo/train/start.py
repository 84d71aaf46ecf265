"""Starting from another run's weights, where depth, tile, classes or options may differ, and what that run has seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from data_recipes.files import whole_file
from data_recipes.regions import Rect, Region, subtract_all
from data_recipes.split import Fold
from data_recipes.tiles import InputContract
from zoo.checkpoint import read_info
from zoo.models.base import InkModel
from zoo.train.config import told_budget

_NAMED = 8  # tensors that a message lists before it only counts
_FILE = "started_from.json"
_OWN = {"tile", "mean", "std"}  # of a contract, what each run may have its own of: mean and std are measured

_SOURCE = ("path", "sha256", "name", "seen", "held_out_px_seen", "input_differs")

Rects = dict[str, list[list[int]]]


def start_from(model: InkModel, path: str | Path, say: Callable[[str], None]) -> None:
    """Copy every weight of a checkpoint that has the name and the shape of one of `model`'s, or that the model can
    bring into its shape (`InkModel.fit_tensor`); name all others.

    Raises:
        FileNotFoundError, ValueError: as `zoo.checkpoint.read_info`; or not one weight fits.
    """
    facts = read_info(path)
    own = model.state_dict()
    fitting, resized, reshaped = [], [], []
    with safe_open(Path(path), "pt") as file, torch.no_grad():
        there = set(file.keys())
        for key in own.keys() & there:
            tensor = file.get_tensor(key)
            fitted = model.fit_tensor(key, tensor, own[key])
            if fitted.shape != own[key].shape:
                reshaped.append(f"{key} {tuple(tensor.shape)}, here {tuple(own[key].shape)}")
                continue
            own[key].copy_(fitted)
            fitting.append(key)
            if tensor.shape != fitted.shape:
                resized.append(f"{key} {tuple(tensor.shape)}, here {tuple(fitted.shape)}")
    if not fitting:
        raise ValueError(
            f"{path}: not one weight of {facts['name']} fits {model.card.name}; start from a checkpoint of that family"
        )
    say(f"started from {path} ({facts['name']}): {len(fitting)} of {len(own)} tensors carried over")
    for what, keys in (
        ("resized", resized),
        ("of another shape, not carried over", reshaped),
        ("not in the checkpoint, as they were", [key for key in own if key not in there]),
        ("of the checkpoint, not used", list(there - set(own))),
    ):
        if keys:
            more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
            say(f"  {what}: {', '.join(sorted(keys)[:_NAMED])}{more}")


def sha256_of(path: str | Path) -> str:
    """Of a checkpoint; FileNotFoundError where there is none."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such checkpoint") from None


def source_of(
    path: str | Path, fold: Fold | None, contract: InputContract, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """What a run's record says of the checkpoint that it starts from; what is wrong with starting there goes to `say`.

    Returns `path`, `sha256`, `name`; `seen`: the rectangles (y0, y1, x0, x1 in px) of each fragment that it was trained
    on, those of the checkpoints it started from itself included, null where the file does not say; `held_out_px_seen`:
    how many of them lie in what this run leaves out, null where that is not known; `trained`: its own budget in words,
    null where the file does not say; `input_differs`: in what.

    Raises:
        FileNotFoundError, ValueError: as `zoo.checkpoint.read_info`.
    """
    facts, digest = read_info(path), sha256_of(path)
    seen = seen_by(facts["config"])
    held = _region(fold.as_dict()["test"], fold.as_dict()["calibration"]) if fold else {}
    overlap = None
    if fold is None:
        overlap = 0
    elif seen is None:
        say(f"{path} does not say where it was trained: whether it has seen what is left out here is not known")
    else:
        overlap = sum(_covered(rects, _region(seen).get(name, ())) for name, rects in held.items())
        if overlap:
            names = ", ".join(name for name in held if _covered(held[name], _region(seen).get(name, ())))
            say(
                f"leak: {path} was trained on {overlap:,} px of what this run leaves out (in {names}), so a score on "
                "them says nothing; start from a checkpoint of the same fold"
            )
    differs = contract_differences(InputContract.model_validate(facts["contract"]), contract)
    if differs:
        say(f"the input is not that of {path}: {'; '.join(differs)}")
    return {
        "path": str(Path(path).absolute()),
        "sha256": digest,
        "name": facts["name"],
        "seen": seen,
        "held_out_px_seen": overlap,
        "trained": told_budget(facts["config"]["train"]) if facts["config"].get("train") else None,
        "input_differs": differs,
    }


def seen_by(config: Mapping[str, Any]) -> Rects | None:
    """From a checkpoint's configuration, the rectangles of each fragment that its weights have been trained on.

    None where it does not say, such as of a training that was called from one's own code.
    """
    if "train_rects" in config:
        own = config["train_rects"]
    elif config.get("fold"):
        own = config["fold"]["train"]
    elif "run" in config:  # of the bench
        own = config["run"]["train_rects"]
    else:
        return None
    before = config.get("started_from")
    if before is None:
        return {name: [list(rect) for rect in rects] for name, rects in own.items()}
    if before["seen"] is None:
        return None
    names = dict.fromkeys([*own, *before["seen"]])
    return {name: [list(rect) for part in (own, before["seen"]) for rect in part.get(name, [])] for name in names}


def contract_differences(was: InputContract, now: InputContract) -> list[str]:
    """`direction was 'forward', is 'reverse'`, and so on, for all that decides what a stored layer becomes.

    What either does not know, and mean, deviation and tile, are passed over.
    """
    old, new = was.model_dump(exclude=_OWN), now.model_dump(exclude=_OWN)
    return [
        f"{key} was {old[key]!r}, is {new[key]!r}"
        for key in old
        if old[key] != new[key] and old[key] is not None and new[key] is not None
    ]


def keep_source(source: Mapping[str, Any] | None, out: Path) -> None:
    """Leave word in a run's folder of what it started from, for `recall_source`; None: that it started from nothing."""
    if source is None:
        (out / _FILE).unlink(missing_ok=True)
        return
    with whole_file(out / _FILE) as partial:
        partial.write_text(json.dumps(source), encoding="utf-8")


def recall_source(out: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """What the run in this folder started from, for the record of one that goes on; a damaged file is named."""
    try:
        found = json.loads((out / _FILE).read_text(encoding="utf-8"))
        return {key: found[key] for key in _SOURCE} | {"trained": found.get("trained")}  # an earlier version had none
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        say(f"{out / _FILE}: damaged ({error!r}); it is passed over")
        return None


def _region(*parts: Mapping[str, Any]) -> Region:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: tuple(Rect(*rect) for part in parts for rect in part.get(name, ())) for name in names}


def _covered(rects: tuple[Rect, ...], by: tuple[Rect, ...]) -> int:
    """Pixels of `rects`, which are disjoint, that lie in any of `by`."""
    return sum(rect.area for rect in rects) - sum(rect.area for rect in subtract_all(rects, by))

"""One file that holds a trained model and all that is needed to use it: weights, name, contract, configuration.

A safetensors file whose JSON metadata carries the rest. Nothing is ever unpickled, so a file from anywhere is safe to
open.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import zoo
from data_recipes.files import whole_file
from data_recipes.tiles import InputContract
from zoo.degrade import Degrade
from zoo.models.base import InkModel
from zoo.registry import create_model

FORMAT = "inkzoo-checkpoint"
VERSION = 1
_UNSAFE = (".pt", ".pth", ".ckpt", ".pkl", ".bin")


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint holds.

    Attributes:
        model: with its weights, on the device asked for, in evaluation mode.
        name: registered name, or "module:builder".
        options: what the builder was given in training besides depth, tile and classes.
        contract: how the model's input was made in training.
        config: the whole training configuration, as written.
        info: everything else in the metadata: card, versions, depth, tile, classes.
    """

    model: InkModel
    name: str
    options: dict[str, Any]
    contract: InputContract
    config: dict[str, Any]
    info: dict[str, Any]

    @property
    def degrade(self) -> Degrade | None:
        """How the input was degraded in training, which a prediction has to repeat; None: not at all."""
        return (self.config.get("train") or {}).get("degrade")

    @property
    def seen(self) -> dict[str, Any] | None:
        """Fragment -> rectangles (y0, y1, x0, x1) that it was trained on; None where the checkpoint does not say."""
        return (self.config.get("run") or self.config).get("train_rects")


def save_checkpoint(
    path: str | Path,
    model: InkModel,
    *,
    name: str,
    options: Mapping[str, Any],
    contract: InputContract,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write `path` (.safetensors) whole or not at all: to a temporary name, to the disk, then renamed.

    `weights` are written in place of the model's own, such as averaged ones; under the same names.

    Raises:
        OSError: it cannot be written (no space, no permission); an earlier file of that name is left as it was.
    """
    path = Path(path)
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "options": dict(options),
        "depth": model.depth,
        "tile": model.tile,
        "classes": model.classes,
        "contract": contract.model_dump(mode="json"),
        "config": dict(config),
        "card": asdict(model.card),
        "versions": {
            "inkzoo": zoo.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    write_tensors(path, weights if weights is not None else model.state_dict(), facts)
    return path


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors, and `facts` as JSON beside them, as one safetensors file, whole or not at all.

    Of what lies in main memory, only tensors that are not contiguous or share memory with an earlier one are copied.

    Raises:
        OSError: it cannot be written (no space, no permission); an earlier file of that name is left as it was.
    """
    plain: dict[str, Tensor] = {}
    taken: set[int] = set()
    for key, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()  # safetensors refuses others, and tensors that share memory
        if tensor.untyped_storage().data_ptr() in taken:
            tensor = tensor.clone()
        taken.add(tensor.untyped_storage().data_ptr())
        plain[key] = tensor
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode  # as the umask has it; safetensors lets only the owner read
        try:
            save_file(plain, partial, {"inkzoo": json.dumps(facts)})
        except SafetensorError as error:
            code = re.search(r"os error (\d+)", str(error))
            number = int(code[1]) if code else errno.EIO
            raise OSError(number, os.strerror(number), str(path)) from error
        partial.chmod(mode)


def read_info(path: str | Path) -> dict[str, Any]:
    """A checkpoint's metadata without its weights.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, damaged, or not written by `save_checkpoint`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, "pt") as file:
            stored = (file.metadata() or {}).get("inkzoo", "")
    except SafetensorError as error:
        if path.suffix in _UNSAFE:
            raise ValueError(
                f"{path}: not a safetensors file; files of this kind can run code when opened, so they are not read. "
                "Expected a .safetensors checkpoint from `python -m zoo.train`"
            ) from error
        raise ValueError(
            f"{path}: truncated or not a safetensors file ({error}); "
            "expected a checkpoint from `python -m zoo.train`: copy it again, or use an earlier one"
        ) from error
    try:
        facts = json.loads(stored) if stored else {}
    except json.JSONDecodeError:
        facts = {}
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ValueError(
            f"{path}: a safetensors file, but not a checkpoint of this project (its metadata says nothing of a model); "
            "expected one from `python -m zoo.train`"
        )
    if facts["version"] > VERSION:
        raise ValueError(
            f"{path}: checkpoint version {facts['version']}, this inkzoo {zoo.__version__} reads up to {VERSION}; "
            f"it was written by inkzoo {facts['versions']['inkzoo']}: install that or a newer one"
        )
    return facts


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> Loaded:
    """The model of a checkpoint with its weights on `device`, and how it was trained.

    Raises:
        FileNotFoundError, ValueError: as `read_info`; also where the model's code has changed since.
    """
    facts = read_info(path)
    only_at_first = facts["card"].get("init_options", ())  # their files need not be here: the weights are
    options = {key: value for key, value in facts["options"].items() if key not in only_at_first}
    model = create_model(facts["name"], depth=facts["depth"], tile=facts["tile"], classes=facts["classes"], **options)
    with safe_open(Path(path), "pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        saved, now = set(weights), set(model.state_dict())
        differ = sorted(saved ^ now)[:3] or ["their shapes"]
        raise ValueError(
            f"{path}: its weights do not fit {facts['name']} as it is now ({', '.join(differ)} …); "
            f"it was written by inkzoo {facts['versions']['inkzoo']}, this is {zoo.__version__}"
        ) from error
    model.to(device).eval()
    contract = InputContract.model_validate(facts["contract"])
    known = ("name", "options", "contract", "config")
    info = {key: value for key, value in facts.items() if key not in known}
    return Loaded(model, facts["name"], facts["options"], contract, facts["config"], info)

"""What fine-tuning changed, saved alone: the trained parameters of a model whose other weights are frozen.

With LoRA of rank 4 on SAM ViT-B that is 0.6 MB, and 14.5 MB more where the mask decoder is trained too, instead of the
375 MB of the whole. A safetensors file whose metadata says what it belongs on; nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zoo.checkpoint import write_tensors
from zoo.models.base import InkModel

FORMAT = "inkzoo-adapter"


def save_adapter_if_lora(path: str | Path, model: InkModel, weights: Mapping[str, Tensor] | None = None) -> Path | None:
    """`save_adapter`, where `model` has low-rank factors (`tuning="lora"`); None and no file where it has none.

    Raises:
        OSError: it cannot be written.
    """
    if not any("lora" in key for key, _ in model.named_parameters()):
        return None
    return save_adapter(path, model, weights)


def save_adapter(path: str | Path, model: InkModel, weights: Mapping[str, Tensor] | None = None) -> Path:
    """Write the trained parameters of `model`, and its buffers, to `path` (.safetensors), whole or not at all.

    `weights`: what to write in the place of the model's own tensors, by their names, frozen ones too; such as averaged
    ones, or those gathered from all the devices of a sharded model.

    Raises:
        ValueError: nothing is frozen, so that a checkpoint is what to save.
        OSError: it cannot be written.
    """
    path = Path(path)
    if all(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"{model.card.name}: nothing is frozen; an adapter would be the whole model: save a checkpoint"
        )
    facts = {"format": FORMAT, "model": model.card.name, "base": _base_digest(model, weights)}
    given = weights or {}
    write_tensors(path, {key: given.get(key, tensor) for key, tensor in _own(model).items()}, facts)
    return path


def load_adapter(path: str | Path, model: InkModel) -> None:
    """Put an adapter into `model`, built with the same options on the same weights that the adapter was trained on.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an adapter, one of another model or of other options, or the frozen weights are not those it
            was trained beside.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such adapter")
    try:
        with safe_open(path, "pt") as file:
            facts: Any = json.loads((file.metadata() or {}).get("inkzoo", "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(f"{path}: truncated or not a safetensors file ({error}); expected an adapter") from error
    if facts.get("format") != FORMAT:
        raise ValueError(f"{path}: a safetensors file, but not an adapter of this project; expected one")
    own = _own(model)
    differ = sorted(tensors.keys() ^ own.keys()) or [key for key in own if own[key].shape != tensors[key].shape]
    if facts["model"] != model.card.name or differ:
        raise ValueError(
            f"{path}: an adapter for {facts['model']} that does not fit this {model.card.name} ({differ[:3]} …); "
            "build the model with the options, the depth and the tile that it was trained with"
        )
    if facts["base"] != _base_digest(model):
        raise ValueError(
            f"{path}: trained beside other frozen weights than this {model.card.name} has; "
            "start from the same official checkpoint"
        )
    with torch.no_grad():
        for key, tensor in tensors.items():
            own[key].copy_(tensor)


def _own(model: InkModel) -> dict[str, Tensor]:
    trained = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    return trained | dict(model.named_buffers())


def _base_digest(model: InkModel, weights: Mapping[str, Tensor] | None = None) -> str:
    """SHA-256 of the frozen parameters with their names; those of `weights` where it has them."""
    given = weights or {}
    digest = hashlib.sha256()
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            digest.update(key.encode())
            digest.update(given.get(key, parameter).detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()

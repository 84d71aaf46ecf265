"""Which device and which arithmetic a command uses, said in words that can be printed and recorded."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Chosen = Literal["fp32", "bf16", "fp16"]


def resolve_device(name: str = "auto") -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU; `cpu`, `cuda` and `cuda:N` are taken as they are.

    Raises:
        ValueError: the device is unknown or not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is unknown; give auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {name!r} is not supported; give auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise ValueError(f"device {name!r} is not there: {count} GPUs are visible; use --device cpu or auto")
        return torch.device("cuda", device.index or 0)
    return device


def resolve_precision(precision: Precision, device: torch.device) -> Chosen:
    """`auto` is bf16 where the device computes it natively, else fp32; anything else stays as asked.

    Raises:
        ValueError: fp16 without a GPU.
    """
    if precision == "fp16" and device.type != "cuda":
        raise ValueError(f"fp16 needs a GPU, and this is {device}; use auto, bf16 or fp32")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = torch.cpu.get_capabilities()
        native = bool(has.get("avx512_bf16") or has.get("amx_bf16") or has.get("bf16"))  # the last is ARM's name
    return "bf16" if native else "fp32"


def autocast(precision: Chosen, device: torch.device) -> torch.autocast:
    """The context in which a model computes in `precision`; weights stay as they are."""
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=precision != "fp32")


def to_channels_last(model: nn.Module) -> None:
    """Lay out all convolution weights with channels innermost, in 2D and 3D; values stay."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in model.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])

"""The arithmetic of a training run, its optimizer and schedule, and the engine that runs them on a device."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch import nn

from zoo.device import Precision, resolve_precision
from zoo.train.config import TrainConfig

_FIRST_RATE = 0.04  # share of the highest rate that a warm-up starts from: a first step at 0 would be lost


def training_precision(asked: Precision, model: nn.Module, device: torch.device) -> Literal["fp32", "bf16"]:
    """What to train `model` in: as `resolve_precision`, but fp32 where bf16 gradients could be wrong, with a warning.

    On a CPU, PyTorch's own 3D convolutions leave parts of the kernel's gradient unwritten in bf16 where there are fewer
    layers than the kernel has and Z is padded (`zoo.models.layers.conv3d`, which does not). How many layers reach a
    convolution is not known beforehand, so any of them that pads Z counts.
    """
    precision = resolve_precision(asked, device)
    if precision == "bf16" and device.type == "cpu":
        unsafe = [name for name, module in model.named_modules() if isinstance(module, nn.Conv3d) and _pads_z(module)]
        if unsafe:
            warnings.warn(
                f"trained in fp32, not bf16: {unsafe[0]} is an nn.Conv3d that pads Z, whose bf16 gradients on a CPU "
                "can be wrong; zoo.models.layers.Conv3d can be trusted in bf16",
                stacklevel=2,
            )
            return "fp32"
    return precision


def _pads_z(conv: nn.Conv3d) -> bool:
    padded = conv.padding == "same" if isinstance(conv.padding, str) else conv.padding[0] > 0
    return conv.kernel_size[0] > 1 and padded


def make_fabric(device: torch.device, precision: str) -> Fabric:
    """Lightning Fabric for one device, in "fp32" or "bf16" (weights stay in fp32)."""
    # it announces the precision on stderr, which the command does in its own words
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    return Fabric(
        accelerator=device.type,
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )


def make_optimizer(model: nn.Module, config: TrainConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW; no weight decay on biases, norms and other vectors. Parameters that are frozen are left out.

    Raises:
        ValueError: there is nothing to train.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError(f"{type(model).__name__}: not one parameter can be trained; all are frozen or there are none")
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.999), fused=device.type == "cuda")


def schedule(share: float, warmup: float) -> float:
    """Learning rate as a share of the highest, at a share of the budget: a linear rise, then half a cosine to 0."""
    if share < warmup:
        return _FIRST_RATE + (1 - _FIRST_RATE) * share / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (share - warmup) / (1 - warmup))))

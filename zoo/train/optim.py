"""The optimizer, its schedule, and the engine that runs both on a device."""

from __future__ import annotations

import logging
import math

import torch
from lightning_fabric import Fabric
from torch import nn

from zoo.train.config import TrainConfig

_FIRST_RATE = 0.04  # share of the highest rate that a warm-up starts from: a first step at 0 would be lost


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

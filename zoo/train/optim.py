"""The optimizer of a training run and the schedule of its learning rate."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from zoo.device import Chosen
from zoo.models.base import InkModel
from zoo.train.config import TrainConfig

_FIRST_RATE = 0.04  # share of the highest rate that a warm-up starts from: a first step at 0 would be lost


def make_optimizer(model: InkModel, config: TrainConfig, device: torch.device, precision: Chosen) -> torch.optim.AdamW:
    """AdamW; no weight decay on biases, norms and other vectors, nor on what the model's `no_weight_decay` names.

    Parameters that are frozen are left out.

    Fused on a GPU, but not in fp16: such a kernel undoes the scale of the gradients itself, and Fabric refuses to take
    their norm before.

    A group's `lr_scale` is its share of the learning rate, by `config.layer_decay` and the model's order of layers.

    Raises:
        ValueError: there is nothing to train.
    """
    scales = model.learning_rate_scales(config.layer_decay) if config.layer_decay < 1 else {}
    exempt = model.no_weight_decay()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = config.weight_decay if parameter.ndim > 1 and name not in exempt else 0.0
            groups.setdefault((scales.get(name, 1.0), decay), []).append(parameter)
    if not groups:
        raise ValueError(f"{type(model).__name__}: not one parameter can be trained; all are frozen or there are none")
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "lr_scale": scale}
            for (scale, decay), parameters in sorted(groups.items(), key=lambda item: (-item[0][0], -item[0][1]))
        ],
        lr=config.lr,
        betas=(0.9, 0.999),
        fused=device.type == "cuda" and precision != "fp16",
    )


def schedule(share: float, warmup: float, kind: Literal["cosine", "step"] = "cosine") -> float:
    """Learning rate as a share of the highest, at a share of the budget: a linear rise, then as `kind` says.

    `cosine`: half a cosine to 0. `step`: a tenth from 2/3 of the budget on, a hundredth from 26/27 on, where SAM's
    schedule has its steps (60,000 and 86,666 of 90,000; Kirillov et al. 2023).
    """
    if share < warmup:
        return _FIRST_RATE + (1 - _FIRST_RATE) * share / warmup
    if kind == "step":
        return 0.1 ** ((share >= 2 / 3) + (share >= 26 / 27))
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (share - warmup) / (1 - warmup))))

"""Input robbed of what depth says, to read off one model what depth is worth to it."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Degrade = Literal["zmean", "zshuffle"]

_ORDER_SEED = 20231114  # one order for all runs, so that training and prediction cannot disagree


def degrade(volume: Tensor, kind: Degrade | None) -> Tensor:
    """(B, 1, D, H, W) -> the same shape. None returns the volume as it is.

    `zmean` puts the mean over Z in every layer: nothing of depth is left. `zshuffle` puts the layers in one fixed
    random order, the same for every tile: the values stay, their neighbourhood in Z goes.

    Raises:
        ValueError: another kind.
    """
    if kind is None:
        return volume
    if kind == "zmean":
        return volume.mean(dim=2, keepdim=True).expand_as(volume).contiguous()
    if kind == "zshuffle":
        return volume[:, :, layer_order(volume.shape[2]).to(volume.device)]
    raise ValueError(f"degraded input {kind!r} is unknown; allowed: {', '.join(get_args(Degrade))}")


def layer_order(depth: int) -> Tensor:
    """(depth,) long: the fixed order of `zshuffle`, never the natural one from two layers on."""
    order = torch.randperm(depth, generator=torch.Generator().manual_seed(_ORDER_SEED))
    return order.roll(1) if depth > 1 and torch.equal(order, torch.arange(depth)) else order

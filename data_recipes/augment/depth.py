"""Changes along Z: layers shifted, turned over, exchanged or left out. Labels are 2D and stay as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from .draws import Draws
from .settings import AugmentSettings


def reorder(volume: Tensor, draws: Draws, settings: AugmentSettings) -> Tensor:
    """Shift, reverse and swap, composed into one choice of layers; one pass over the memory."""
    if not (settings.depth_shift or settings.depth_reverse or settings.layer_swap):
        return volume
    size, depth = volume.shape[0], volume.shape[2]
    layers = torch.arange(depth).expand(size, -1)
    if settings.depth_shift:
        shift = draws.integers(-settings.depth_shift, settings.depth_shift + 1)
        layers = (layers + shift[:, None]).clamp(0, depth - 1)
    if settings.depth_reverse:
        layers = torch.where(draws.chance(settings.depth_reverse)[:, None], layers.flip(1), layers)
    if settings.layer_swap and depth > 1:
        swapped = draws.chance(settings.layer_swap)[:, None]
        upper = draws.integers(0, depth - 1)[:, None]
        order = torch.arange(depth).expand(size, -1)
        order = torch.where(order == upper, upper + 1, torch.where(order == upper + 1, upper, order))
        layers = torch.where(swapped, layers.gather(1, order), layers)
    tiles = torch.arange(size, device=volume.device)[:, None]
    return volume[tiles, 0, layers.to(volume.device)][:, None]


def drop_layers(volume: Tensor, draws: Draws, settings: AugmentSettings) -> Tensor:
    """Set layers to the mean, in place; the layer with the highest draw stays, so a tile is never left empty."""
    if not settings.layer_drop:
        return volume
    drawn = draws.values(volume.shape[2])
    dropped = (drawn < settings.layer_drop) & (drawn < drawn.amax(1, keepdim=True))
    return volume.masked_fill_(dropped.to(volume.device)[:, None, :, None, None], 0.0)

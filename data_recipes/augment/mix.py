"""A square cut out of a tile, a piece of another tile put in, or two tiles blended."""

from __future__ import annotations

import torch
from torch import Tensor

from .draws import Draws
from .moves import Planes
from .settings import AugmentSettings


def cut_out(volume: Tensor, draws: Draws, settings: AugmentSettings) -> Tensor:
    """Set one square to the mean, in place. The label under it counts: it can be told from what lies around."""
    if not settings.cutout:
        return volume
    height, width = volume.shape[-2:]
    low, high = settings.cutout_side
    hole = draws.uniform(low, high) * width * draws.chance(settings.cutout).to(volume.device)
    top, left = draws.uniform(0, 1) * (height - hole), draws.uniform(0, 1) * (width - hole)
    square = _rectangle(height, width, top, left, hole, hole)
    return volume.masked_fill_(square[:, None, None], 0.0)


def cut_mix(planes: Planes, draws: Draws, settings: AugmentSettings, task: Tensor | None = None) -> Planes:
    """Put a piece of another tile of the same task, with its label and mask, in the same place of the chosen tiles, in
    place.

    Yun et al. 2019, https://arxiv.org/abs/1905.04899, for labels that are maps: they are put together as the tiles are.
    """
    if not settings.cutmix:
        return planes
    height, width = planes[0].shape[-2:]
    chosen, partner = draws.chosen(settings.cutmix), draws.partners(task)
    tall, wide = draws.uniform(*settings.cutmix_side) * height, draws.uniform(*settings.cutmix_side) * width
    top, left = draws.uniform(0, 1) * (height - tall), draws.uniform(0, 1) * (width - wide)
    piece = _rectangle(height, width, top, left, tall, wide)[chosen][:, None]
    for plane in planes:
        where = piece if plane.ndim == 4 else piece[:, None]
        plane[chosen] = torch.where(where, plane[partner[chosen]], plane[chosen])
    return planes


def mix_up(planes: Planes, draws: Draws, settings: AugmentSettings, task: Tensor | None = None) -> Planes:
    """Blend the chosen tiles with another of the same task, and their labels to a share of ink (float32); both must
    count.

    Zhang et al. 2018, https://arxiv.org/abs/1710.09412. Every label of the batch becomes float32, chosen or not.
    """
    if not settings.mixup:
        return planes
    from scipy.special import betaincinv  # the Beta distribution's quantiles: one even draw a tile, from our generator

    volume, label, mask = planes
    chosen, partner = draws.chosen(settings.mixup), draws.partners(task)
    weight = betaincinv(settings.mixup_alpha, settings.mixup_alpha, draws.values().double().numpy())
    weight = torch.from_numpy(weight).float().to(volume.device)[chosen].view(-1, 1, 1, 1)
    label = label.float().clamp(0, 1) if label.is_floating_point() else (label > 0).float()
    other = partner[chosen]
    volume[chosen] = torch.lerp(volume[other], volume[chosen], weight[..., None])
    label[chosen] = torch.lerp(label[other], label[chosen], weight)
    mask[chosen] = mask[chosen] * mask[other]
    return volume, label, mask


def _rectangle(height: int, width: int, top: Tensor, left: Tensor, tall: Tensor, wide: Tensor) -> Tensor:
    """(B,height,width) bool: the pixels inside a rectangle of each tile, all in px."""
    rows = torch.arange(height, device=top.device)[None] - top[:, None]
    columns = torch.arange(width, device=top.device)[None] - left[:, None]
    inside_rows = (rows >= 0) & (rows < tall[:, None])
    inside_columns = (columns >= 0) & (columns < wide[:, None])
    return inside_rows[:, :, None] & inside_columns[:, None, :]

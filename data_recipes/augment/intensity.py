"""Changes of intensity. Each is one mapping for all layers of a tile, so that layers stay comparable.

Tiles come in standard deviations about the mean of the training pixels, not from 0 to 1. So `contrast` and `gamma` act
on the tile's own range, and give the tile back its mean and deviation; `gain` and `offset` are what changes those.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .draws import Draws
from .settings import AugmentSettings

GREYS = 256  # levels of a histogram
_SMALL = 1e-6


def change_intensity(volume: Tensor, draws: Draws, settings: AugmentSettings) -> Tensor:
    """Contrast, gamma, gain and offset of a (B,1,D,H,W) volume, in place."""
    if settings.contrast:
        chosen = draws.chosen(settings.contrast)
        _on_own_scale(volume, chosen, lambda x: equalise(x, settings.contrast_cells, settings.contrast_limit))
    if settings.gamma:
        chosen, power = draws.chosen(settings.gamma), draws.uniform(*settings.gamma_range)
        _on_own_scale(volume, chosen, lambda x: x ** power[chosen].view(-1, 1, 1, 1))
    if settings.gain or settings.offset:
        gain = draws.uniform(1 - settings.gain, 1 + settings.gain)
        offset = draws.uniform(-settings.offset, settings.offset)
        volume.mul_(gain.view(-1, 1, 1, 1, 1)).add_(offset.view(-1, 1, 1, 1, 1))
    return volume


def degrade_detail(volume: Tensor, draws: Draws, settings: AugmentSettings) -> Tensor:
    """Blur and noise of a (B,1,D,H,W) volume, in place."""
    if settings.blur:
        chosen, sigma = draws.chosen(settings.blur), draws.uniform(*settings.blur_sigma)
        if len(chosen):
            from kornia.filters import gaussian_blur2d  # half a second that few trainings need to wait for

            side = 2 * int(3 * settings.blur_sigma[1] + 0.999) + 1
            both = sigma[chosen, None].expand(-1, 2)
            # layers go as channels, which get one kernel; mirroring would fail on tiles smaller than the kernel
            volume[chosen, 0] = gaussian_blur2d(volume[chosen, 0], (side, side), both, border_type="replicate")
    if settings.noise:
        noisy, std = draws.chance(settings.noise), draws.uniform(*settings.noise_std)
        seeds = draws.integers(0, 2**62)
        own = torch.Generator(volume.device)
        for tile in noisy.nonzero()[:, 0].tolist():
            own.manual_seed(int(seeds[tile]))
            drawn = torch.randn(volume[tile].shape, generator=own, device=volume.device, dtype=volume.dtype)
            volume[tile].addcmul_(drawn, std[tile])
    return volume


def _on_own_scale(volume: Tensor, chosen: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    """Apply `change` to the chosen tiles (n,D,H,W), each from 0 to 1 over its range; mean and deviation stay."""
    if not len(chosen):
        return
    before = volume[chosen, 0]
    low, high = before.amin((1, 2, 3), True), before.amax((1, 2, 3), True)
    after = change(((before - low) / (high - low).clamp_min(_SMALL)).clamp_(0, 1))
    (mean, std), (mean_after, std_after) = _moments(before), _moments(after)
    volume[chosen, 0] = (after - mean_after) * (std / std_after.clamp_min(_SMALL)) + mean


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every tile; on a CPU several times as fast as `torch.std_mean`."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean, (x - mean).square_().mean((1, 2, 3), keepdim=True).sqrt_()


def equalise(x: Tensor, cells: int, limit: float) -> Tensor:
    """(n,D,H,W) from 0 to 1 with its histogram levelled: over each tile, or in cells×cells parts of it, blended.

    Contrast-limited adaptive histogram equalisation (Zuiderveld, Graphics Gems IV, 1994) with one histogram for all
    layers of a cell; kornia's would equalise every layer by itself and with that take away what differs along Z.

    Args:
        limit: no grey level counts more than so many times the average one, what is above is spread over all; 0: none.
    """
    size, _, height, width = x.shape
    rows, columns = min(cells, height), min(cells, width)
    level = (x * GREYS).long().clamp_(max=GREYS - 1)
    cell = (torch.arange(height, device=x.device) * rows // height)[:, None] * columns
    cell = cell + torch.arange(width, device=x.device) * columns // width
    tile = torch.arange(size, device=x.device).view(-1, 1, 1, 1) * (rows * columns)
    counts = torch.bincount((level + (tile + cell) * GREYS).flatten(), minlength=size * rows * columns * GREYS)
    share = counts.view(size, rows * columns, GREYS).to(x.dtype)
    share = share / share.sum(-1, keepdim=True)
    if limit:
        highest = limit / GREYS
        share = share.clamp_max(highest) + (share - highest).clamp_min(0).sum(-1, keepdim=True) / GREYS
    # a level becomes the share of what is darker, half of itself included
    table = (share.cumsum(-1) - share / 2).flatten(1)
    out = torch.zeros_like(x)
    for row, by_row in _neighbours(height, rows, x.device):
        for column, by_column in _neighbours(width, columns, x.device):
            place = level + (row[:, None] * columns + column) * GREYS
            out.addcmul_(table.gather(1, place.flatten(1)).view(x.shape), by_row[:, None] * by_column)
    return out


def _neighbours(side: int, cells: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """The one or two cells whose middles each of `side` pixels lies between, and how much each of them weighs."""
    if cells == 1:
        return [(torch.zeros(side, dtype=torch.long, device=device), torch.ones(side, device=device))]
    place = ((torch.arange(side, device=device) + 0.5) * cells / side - 0.5).clamp(0, cells - 1)
    first = place.long().clamp_(max=cells - 2)
    return [(first, 1 - (place - first)), (first + 1, place - first)]

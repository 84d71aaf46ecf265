"""Moves of tile, label and mask together: the eight symmetries, exactly, and one warp with a single resampling."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .draws import Draws
from .settings import AugmentSettings

Planes = tuple[Tensor, Tensor, Tensor]


def orient(planes: Planes, draws: Draws, settings: AugmentSettings) -> Planes:
    """Copies of volume, label and mask, each sample turned by quarter turns and mirrored."""
    turns = draws.integers(0, 4 if settings.quarter_turns else 1)
    mirror = draws.integers(0, 2 if settings.flips else 1)
    if settings.flips and not settings.quarter_turns:
        turns = 2 * draws.integers(0, 2)  # with the mirror: both flips, each in half
    volume, label, mask = (_oriented(plane, turns, mirror) for plane in planes)
    return volume, label, mask


def _oriented(tensor: Tensor, turns: Tensor, mirror: Tensor) -> Tensor:
    """A copy with every sample turned by its quarter turns, then mirrored; one pass over the memory."""
    out = torch.empty_like(tensor)
    for quarter in turns.unique().tolist():
        for flip in mirror.unique().tolist():
            chosen = ((turns == quarter) & (mirror == flip)).nonzero()[:, 0].to(tensor.device)
            moved = torch.rot90(tensor[chosen], quarter, (-2, -1))
            out[chosen] = moved.flip(-1) if flip else moved
    return out


def warp(planes: Planes, draws: Draws, settings: AugmentSettings) -> Planes:
    """Rotate, magnify and bend the tiles that are chosen, in place.

    The three are composed into one place to read from, the same for all layers. The volume is read bilinearly, mirrored
    at the tile's edge; label and mask from the nearest pixel, and where that lies outside the tile both are 0.
    """
    volume, label, mask = planes
    chosen, source = draws.chosen(settings.warp), _source(draws, settings, (volume.shape[-2], volume.shape[-1]))
    if not len(chosen):
        return planes
    y, x = source[chosen].unbind(-1)
    height, width = volume.shape[-2:]
    # align_corners=False: -1 and 1 are the outer edges of the outermost pixels, so a px is 2 / side
    grid = torch.stack([2 * x / width, 2 * y / height], -1)
    volume[chosen, 0] = F.grid_sample(volume[chosen, 0], grid, padding_mode="reflection", align_corners=False)
    row, column = (y + (height - 1) / 2).round().long(), (x + (width - 1) / 2).round().long()
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).flatten(1)
    for plane in (label, mask):
        nearest = plane[chosen].flatten(1).gather(1, place).view(len(chosen), height, width)
        plane[chosen, 0] = torch.where(inside, nearest, torch.zeros_like(nearest))
    return planes


def _source(draws: Draws, settings: AugmentSettings, size: tuple[int, int]) -> Tensor:
    """(B,H,W,2) where each pixel is read from: row and column, px from the middle of the tile."""
    height, width = size
    y = torch.arange(height, device=draws.device).view(1, -1, 1) - (height - 1) / 2
    x = torch.arange(width, device=draws.device).view(1, 1, -1) - (width - 1) / 2
    if settings.elastic:
        # bent before it is magnified and turned, so that what cannot fold here cannot fold later
        rows, columns = (_spline(side, settings.elastic_spacing) for side in size)
        control = (2 * draws.values(2, rows.shape[1], columns.shape[1]) - 1) * settings.elastic
        bend = (rows @ control @ columns.T).to(draws.device)
        y, x = y + bend[:, 0], x + bend[:, 1]
    if settings.magnification != (1.0, 1.0):
        factor = draws.uniform(*settings.magnification).view(-1, 1, 1)
        spare = (1 - 1 / factor).clamp_min(0)  # so far can the part that is magnified lie from the middle
        down, right = (draws.uniform(-0.5, 0.5).view(-1, 1, 1) * spare * side for side in size)
    else:
        factor, down, right = 1.0, 0.0, 0.0
    if settings.rotation:
        angle = draws.uniform(-math.radians(settings.rotation), math.radians(settings.rotation)).view(-1, 1, 1)
        y, x = angle.cos() * y - angle.sin() * x, angle.sin() * y + angle.cos() * x
    shape = len(range(draws.of)[draws.rows]), height, width
    return torch.stack([(y / factor + down).expand(shape), (x / factor + right).expand(shape)], -1)


def _spline(side: int, spacing: float) -> Tensor:
    """(side, knots): each pixel as a mean of control points `spacing` px apart, weighted by the cubic B-spline.

    The weights are positive and sum to 1, so nothing moves farther than a control point; and along each axis the slope
    is at most the step between neighbouring control points over their spacing (de Boor, A Practical Guide to Splines).
    With points within ±e that is 2e / spacing, for two axes 4e / spacing: below 1 no two pixels can change places.
    """
    knots = torch.arange(-1, int((side - 1) / spacing) + 3)
    away = (torch.arange(side)[:, None] / spacing - knots).abs()
    near, far = (4 - 6 * away**2 + 3 * away**3) / 6, (2 - away).clamp_min(0) ** 3 / 6
    return torch.where(away < 1, near, far)

"""Augmentation of a batch on its own device: one draw of parameters, applied to tile, label and mask alike.

Everything is drawn a sample, vectorised over the batch, and the same for all layers of a tile, so that what lies above
what stays above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Generator, Tensor


class AugmentSettings(BaseModel):
    """How strongly each augmentation acts; 0 or False turns one off. Intensities are in standard deviations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flips: bool = True
    quarter_turns: bool = Field(default=True, description="needs square tiles; together with flips all 8 symmetries")
    gain: float = Field(default=0.25, ge=0, lt=1, description="volume times 1 ± gain")
    offset: float = Field(default=0.3, ge=0, description="volume plus ± offset")
    depth_shift: int = Field(default=1, ge=0, description="layers up or down, edges replicated")
    cutout: float = Field(default=0.5, ge=0, le=1, description="share of tiles in which one square is set to the mean")
    cutout_side: tuple[float, float] = Field(default=(0.15, 0.35), description="its side as a share of the tile's")


def augment(batch: dict[str, Any], generator: Generator, settings: AugmentSettings) -> dict[str, Any]:
    """A batch of `volume` (B,1,D,H,W), `label` and `mask` (B,1,H,W), transformed; other entries pass through.

    Labels and masks are only moved, never resampled, so they keep their values. `generator` is a CPU generator: the
    draws are then the same on every device.
    """
    import torch

    volume, label, mask = batch["volume"], batch["label"], batch["mask"]
    size, side = volume.shape[0], volume.shape[-1]

    def chance(share: float) -> Tensor:
        return torch.rand(size, generator=generator).lt(share).to(volume.device)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(size, generator=generator).mul(high - low).add(low).to(volume.device)

    if settings.quarter_turns and volume.shape[-2] != side:
        raise ValueError(f"quarter turns need square tiles, got {volume.shape[-2]}×{side}; set quarter_turns: false")
    turns = torch.randint(0, 4 if settings.quarter_turns else 1, (size,), generator=generator)
    mirror = torch.randint(0, 2 if settings.flips else 1, (size,), generator=generator)
    if settings.flips and not settings.quarter_turns:
        turns = 2 * torch.randint(0, 2, (size,), generator=generator)  # with the mirror: both flips, each in half
    volume, label, mask = (_orient(tensor, turns, mirror) for tensor in (volume, label, mask))
    if settings.depth_shift:
        shift = torch.randint(-settings.depth_shift, settings.depth_shift + 1, (size,), generator=generator)
        layers = torch.arange(volume.shape[2]) + shift[:, None]
        layers = layers.clamp(0, volume.shape[2] - 1).to(volume.device)
        volume = volume[torch.arange(size, device=volume.device)[:, None], 0, layers][:, None]
    if settings.gain or settings.offset:
        gain, offset = uniform(1 - settings.gain, 1 + settings.gain), uniform(-settings.offset, settings.offset)
        volume.mul_(gain.view(-1, 1, 1, 1, 1)).add_(offset.view(-1, 1, 1, 1, 1))
    if settings.cutout:
        low, high = settings.cutout_side
        hole = uniform(low, high) * side * chance(settings.cutout)
        top, left = uniform(0, 1) * (volume.shape[-2] - hole), uniform(0, 1) * (side - hole)
        rows = torch.arange(volume.shape[-2], device=volume.device)[None] - top[:, None]
        columns = torch.arange(side, device=volume.device)[None] - left[:, None]
        inside_rows = (rows >= 0) & (rows < hole[:, None])
        inside_columns = (columns >= 0) & (columns < hole[:, None])
        square = inside_rows[:, :, None] & inside_columns[:, None, :]
        volume.masked_fill_(square[:, None, None], 0.0)
    return {**batch, "volume": volume, "label": label, "mask": mask}


def _orient(tensor: Tensor, turns: Tensor, mirror: Tensor) -> Tensor:
    """A copy with every sample turned by its quarter turns, then mirrored; one pass over the memory."""
    import torch

    out = torch.empty_like(tensor)
    for quarter in turns.unique().tolist():
        for flip in mirror.unique().tolist():
            chosen = ((turns == quarter) & (mirror == flip)).nonzero()[:, 0].to(tensor.device)
            moved = torch.rot90(tensor[chosen], quarter, (-2, -1))
            out[chosen] = moved.flip(-1) if flip else moved
    return out

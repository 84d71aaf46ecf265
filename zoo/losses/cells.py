"""One head's logits beside the label at their size, and means over the cells that count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Cells:
    """What a term of the loss reads of one head; build it with `Cells.of`.

    Attributes:
        logits: (B, C, h, w) float32, 0 where a cell does not count.
        target: (B, C, h, w) share of each class, 0 where a cell does not count.
        counted: (B, 1, h, w) bool.
        stride: pixels of the tile to a side of a cell.
        smoothing: what `focal` and `bce` see instead of 0.
        each: terms answer (B,), one value a tile, instead of one for the batch.
    """

    logits: Tensor
    target: Tensor
    counted: Tensor
    stride: float = 1.0
    smoothing: float = 0.0
    each: bool = False

    @staticmethod
    def of(logits: Tensor, target: Tensor, mask: Tensor, *, smoothing: float = 0.0, each: bool = False) -> Cells:
        """Logits (B, C, h, w) beside target (B, C, H, W) and mask (B, 1, H, W), both pooled to h × w."""
        share, counted = pool_to(target, mask, logits.shape[-2:])
        stride = target.shape[-1] / logits.shape[-1]
        return Cells(torch.where(counted, logits.float(), 0.0), share, counted, stride, smoothing, each)

    @property
    def classes(self) -> int:
        return self.logits.shape[1]

    @cached_property
    def probability(self) -> Tensor:
        """(B, C, h, w), 0 where a cell does not count."""
        return torch.where(self.counted, probability(self.logits), 0.0)

    @cached_property
    def entropy(self) -> Tensor:
        """(B, 1, h, w): cross entropy with the label smoothed by `smoothing`."""
        return self.entropy_with(self.smoothing)

    def entropy_with(self, smoothing: float) -> Tensor:
        """(B, 1, h, w): cross entropy with the label in which each class that is not there gets `smoothing`."""
        target = self.target * (1 - max(2, self.classes) * smoothing) + smoothing
        if self.classes == 1:
            return F.binary_cross_entropy_with_logits(self.logits, target, reduction="none")
        return F.cross_entropy(self.logits, target, reduction="none")[:, None]

    @cached_property
    def ink(self) -> Tensor:
        """(B, 1, h, w): share of all classes but the background."""
        return self.target if self.classes == 1 else 1 - self.target[:, :1]

    @cached_property
    def hard(self) -> Tensor:
        """(B, h, w) long: the class that holds the largest share of a cell, ink (1) from one half on."""
        return (self.target[:, 0] >= 0.5).long() if self.classes == 1 else self.target.argmax(dim=1)

    def mean(self, values: Tensor) -> Tensor:
        """(B, 1, h, w) -> the mean over the counted cells of the batch, or of each tile; 0 where none counts."""
        if not self.each:
            return masked_mean(values, self.counted)
        total = torch.where(self.counted, values, 0.0).sum(dim=(1, 2, 3))
        return total / self.counted.sum(dim=(1, 2, 3)).clamp_min(1)


def probability(logits: Tensor) -> Tensor:
    """Logits (B, C, h, w) -> sigmoid of one class, softmax of several."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


def pool_to(target: Tensor, mask: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Labels and mask at a head's size.

    Args:
        target: (B, C, H, W) float, zero outside the mask.
        mask: (B, 1, H, W) bool.
        size: (h, w).

    Returns:
        (B, C, h, w) share of each class among a cell's supervised pixels, zero in cells that do not count, and
        (B, 1, h, w) bool, the cells that count: at least half supervised.
    """
    if tuple(size) == tuple(target.shape[-2:]):
        return target, mask
    height, width = size
    supervised = F.adaptive_avg_pool2d(mask.float(), (height, width))
    counted = supervised >= 0.5
    share = F.adaptive_avg_pool2d(target, (height, width)) / supervised.clamp_min(0.5)
    return torch.where(counted, share, 0.0), counted


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` holds; 0 where it holds nowhere."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp_min(1)

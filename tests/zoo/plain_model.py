"""A model without BatchNorm and dropout: what it answers to a tile does not depend on the other tiles of a batch."""

from __future__ import annotations

from torch import Tensor, nn

from zoo.card import ModelCard
from zoo.models.base import Heads, InkModel

CARDS = {"plain": ModelCard(name="plain", family="plain", summary="three convolutions, Z as channels")}


class Plain(InkModel):
    def __init__(self, *, depth: int, tile: int, classes: int = 1):
        super().__init__(CARDS["plain"], depth=depth, tile=tile, classes=classes)
        self.first = nn.Sequential(nn.Conv2d(depth, 8, 3, padding=1), nn.GELU())
        self.last = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, classes, 1))

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        return Heads([self.last(self.first(volume[:, 0]))])


build_plain = Plain

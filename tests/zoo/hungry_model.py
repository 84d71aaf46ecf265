"""A foreign model for the bench's tests: it builds, and runs out of memory in its first step."""

from __future__ import annotations

from torch import Tensor, nn

from zoo.card import ModelCard
from zoo.models.base import Heads, InkModel

CARDS = {"hungry": ModelCard("hungry", "hungry", "runs out of memory")}


class Hungry(InkModel):
    def __init__(self, depth: int, tile: int, classes: int):
        super().__init__(CARDS["hungry"], depth=depth, tile=tile, classes=classes)
        self.layer = nn.Conv2d(depth, classes, 1)

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        raise MemoryError("not one byte is left")


def build_hungry(*, depth: int, tile: int, classes: int = 1) -> InkModel:
    return Hungry(depth, tile, classes)

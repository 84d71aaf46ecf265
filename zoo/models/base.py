"""The contract that every model keeps: layers in, a stack of logits out."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.card import ModelCard


@dataclass
class Heads:
    """What a model answers for training.

    Attributes:
        logits: [(B, C, h, w), …], finest first, each at its own resolution.
        aux: what a family's loss needs besides, by name (IoU predictions, class logits, gates).
    """

    logits: list[Tensor]
    aux: dict[str, Tensor] = field(default_factory=dict)


class InkModel(nn.Module):
    """Base of every model. A family implements `heads`; `forward` is the same for all.

    Shapes: B batch, D layers, H and W pixels, C classes (1: sigmoid; more: softmax with the background as class 0).
    """

    def __init__(self, card: ModelCard, *, depth: int, tile: int, classes: int = 1):
        super().__init__()
        self.card = card
        self.depth = depth
        self.tile = tile
        self.classes = classes
        self.multiple = card.multiple
        self.out_stride = card.out_stride
        if depth < 1:
            raise ValueError(f"{card.name}: depth {depth} is not possible; a model takes 1 layer or more")
        if classes < 1:
            raise ValueError(f"{card.name}: classes {classes} is not possible; 1 (sigmoid) or more (softmax)")
        self._check_side("tile", tile)

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        """(B, 1, D, H, W) -> Heads. `task`: (B,) long, for models that are conditioned on one."""
        raise NotImplementedError(f"{type(self).__name__} must implement heads()")

    def forward(self, volume: Tensor, task: Tensor | None = None) -> Tensor:
        """(B, 1, D, H, W) -> logits (B, C, H, W).

        Raises:
            ValueError: not five dimensions, not one channel, another depth than built for, H or W not a multiple.
        """
        self.check_input(volume)
        finest = self.heads(volume, task).logits[0].float()  # bf16 steps would show as terraces once interpolated
        if finest.shape[-2:] != volume.shape[-2:]:
            finest = F.interpolate(finest, size=volume.shape[-2:], mode="bilinear", align_corners=False)
        return finest

    def check_input(self, volume: Tensor) -> None:
        """Raise ValueError with what was got, what is allowed and the nearest that would work."""
        if volume.ndim != 5 or volume.shape[1] != 1:
            raise ValueError(f"{self.card.name}: got input of shape {tuple(volume.shape)}, expected (B, 1, D, H, W)")
        if volume.shape[2] != self.depth:
            raise ValueError(
                f"{self.card.name}: got {volume.shape[2]} layers, built for {self.depth}; "
                f"read {self.depth} layers or build it with depth={volume.shape[2]}"
            )
        for axis, side in zip("HW", volume.shape[-2:], strict=True):
            self._check_side(axis, side)

    def _check_side(self, what: str, side: int) -> None:
        step, least = self.card.multiple, max(self.card.min_tile, self.card.multiple)
        if side < least or side % step:
            least = -(-least // step) * step
            nearest = max(least, round(side / step) * step)
            raise ValueError(
                f"{self.card.name}: {what} {side} px is not possible; "
                f"a multiple of {step} from {least} on is; the nearest is {nearest}"
            )

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
        aux: what a family needs besides, by name. Those that a loss of the same name reads (zoo/losses): `iou`, (B, C)
            or (B, M) predicted IoU of each mask; `masks`, (B, M, h, w) logits of M candidates for one class, of which
            the best is trained; `presence`, (B, 2) logits of no ink and ink in the tile. Others, such as `gates`, are
            there to be read.
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

    def learning_rate_scales(self, decay: float) -> dict[str, float]:
        """Parameter name -> its share of the learning rate, for layer-wise decay: `decay` to the power of how many
        layers lie behind it. Names that are absent have 1, as all have in a family without an order of layers.
        """
        return {}

    def no_weight_decay(self) -> set[str]:
        """Names of matrices that weight decay would distort: positions, tokens, gates. Vectors are exempt anyway."""
        return set()

    def shard_units(self) -> list[nn.Module]:
        """Parts that a device which shares the model with others (FSDP2) holds whole one at a time, such as blocks.

        Each of them is called as a module, and nothing reads its parameters from outside while the model runs. What is
        in none of them is held whole for all of a pass: without any, as here, that is the whole model.
        """
        return []

    def fit_tensor(self, key: str, tensor: Tensor, own: Tensor) -> Tensor:
        """Another run's `tensor` in the shape of this model's `own` of the same name, where a family knows how, such as
        positions on another grid; else as it is, and it is not carried over.
        """
        return tensor

    can_checkpoint = False  # whether `set_grad_checkpointing` can be asked for

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute activations again in the backward pass, a block at a time, instead of keeping them.

        Raises:
            ValueError: the family does not offer it (`can_checkpoint` is False).
        """
        if enable:
            raise ValueError(f"{self.card.name}: activation checkpointing is not offered by this family")

    def _check_side(self, what: str, side: int) -> None:
        step, least = self.card.multiple, max(self.card.min_tile, self.card.multiple)
        if side < least or side % step:
            least = -(-least // step) * step
            nearest = max(least, round(side / step) * step)
            raise ValueError(
                f"{self.card.name}: {what} {side} px is not possible; "
                f"a multiple of {step} from {least} on is; the nearest is {nearest}"
            )


def ink_probability(logits: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W): the sigmoid of one class, one minus the background's softmax of several."""
    if logits.shape[1] == 1:
        return logits[:, 0].sigmoid()
    return 1 - logits.softmax(dim=1)[:, 0]

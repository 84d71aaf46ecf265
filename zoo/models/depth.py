"""The ways Z becomes 2D, shared by all families: (B, C, D, H, W) -> (B, C', H, W).

    name       order of the layers   parameters             work a pixel (multiply-adds)   extra memory a pixel
    mean       lost                  0                      C·D                            C
    max        lost                  0                      C·D                            2·C (value and index)
    std        lost                  0                      3·C·D                          C·D for the gradient
    layer      all but one lost      0                      0                              0 (a view)
    zconv      kept, absolute        C·D·C'·k² + C'         C·D·C'·k²                      C'
    tensor     kept, absolute        C·D² + D               2·C·D                          C
    attention  kept by the features  C                      2·C·D                          D
    channels   kept, absolute        0                      0                              0 (a view)

`mean` overlooks what only the order of the layers tells; `zconv` (Z as channels) was the best and most stable choice
in the report on RepMode for ink. Its weights belong to absolute layers: what shifts in Z must be followed by the
features before it. `tensor` weighs the layers for a whole tile, so its answer for a pixel depends on the tile it lies
in; `attention` weighs them for each pixel. `channels` leaves Z to a 2D network, whose first convolution then takes
C·D channels (`input_reduction`). Every module has `out_channels`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def pad_depth(volume: Tensor, multiple: int) -> tuple[Tensor, int]:
    """(B, C, D, H, W) -> ((B, C, D', H, W), before): D' is the next multiple; edge layers are repeated on both sides.

    `before` is the number of layers put in front, so that `padded[:, :, before : before + D]` is the input again.
    """
    depth = volume.shape[2]
    missing = -depth % multiple
    if missing == 0:
        return volume, 0
    before, after = missing // 2, missing - missing // 2
    # expand, then one copy: replicate padding has no deterministic backward on a GPU
    first = volume[:, :, :1].expand(-1, -1, before, -1, -1)
    last = volume[:, :, -1:].expand(-1, -1, after, -1, -1)
    return torch.cat([first, volume, last], dim=2), before


class ZMean(nn.Module):
    """Mean over the layers: no parameters, C·D additions a pixel; blind to the order of the layers."""

    def __init__(self, channels: int):
        super().__init__()
        self.out_channels = channels

    def forward(self, volume: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, H, W)."""
        return volume.mean(dim=2)


class ZMax(nn.Module):
    """Maximum over the layers: no parameters, C·D comparisons a pixel; blind to the order of the layers.

    Its gradient reaches one layer a pixel only (ties share it).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.out_channels = channels

    def forward(self, volume: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, H, W)."""
        return volume.amax(dim=2)


class ZStd(nn.Module):
    """Standard deviation over the layers: no parameters, about 3·C·D operations; blind to the order of the layers."""

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.out_channels = channels
        self.eps = eps  # keeps the gradient finite where all layers agree, and with a single layer

    def forward(self, volume: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, H, W)."""
        return (volume.float().var(dim=2, correction=0) + self.eps).sqrt()


class ZLayer(nn.Module):
    """One layer, the others unread: costs nothing."""

    def __init__(self, channels: int, index: int):
        super().__init__()
        self.out_channels = channels
        self.index = index

    def forward(self, volume: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, H, W)."""
        return volume[:, :, self.index]


class ZConv(nn.Module):
    """A 2D convolution with Z as channels: C·D·C'·k² multiply-adds a pixel, the only one here that knows each layer.

    Built for exactly `depth` layers.
    """

    def __init__(self, channels: int, depth: int, out_channels: int, *, kernel_size: int = 3):
        super().__init__()
        self.out_channels = out_channels
        self.conv = nn.Conv2d(channels * depth, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, volume: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C', H, W)."""
        return self.conv(volume.flatten(1, 2))


class ZTensor(nn.Module):
    """Product with a vector along Z that is predicted from the tile itself: 2·C·D multiply-adds, C·D² + D parameters.

    A linear map takes the mean of each layer's features over the tile to one weight a layer (the report on RepMode for
    ink multiplies with such a vector sample by sample; here the batch is one product). Starts as the mean over the
    layers (map zero, bias 1/D). Built for exactly `depth` layers.
    """

    def __init__(self, channels: int, depth: int):
        super().__init__()
        self.out_channels = channels
        self.weigh = nn.Linear(channels * depth, depth)
        nn.init.zeros_(self.weigh.weight)
        nn.init.constant_(self.weigh.bias, 1 / depth)

    def forward(self, volume: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, H, W)."""
        weight = self.weigh(volume.mean(dim=(3, 4)).flatten(1))
        return torch.einsum("bcdhw,bd->bchw", volume, weight.to(volume.dtype))


class ZAttention(nn.Module):
    """Softmax over the layers of a score a voxel, then the weighted mean: 2·C·D multiply-adds, C parameters.

    Starts as the mean (score weights zero), follows a surface that undulates, and takes any number of layers.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.out_channels = channels
        self.score = nn.Conv3d(channels, 1, 1, bias=False)  # a bias would cancel in the softmax
        nn.init.zeros_(self.score.weight)

    def forward(self, volume: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, H, W)."""
        weight = self.score(volume).softmax(dim=2)
        return (weight.to(volume.dtype) * volume).sum(dim=2)


class ZChannels(nn.Module):
    """The layers as channels: costs nothing here; the convolution that follows has a weight for each layer."""

    def __init__(self, channels: int, depth: int):
        super().__init__()
        self.out_channels = channels * depth

    def forward(self, volume: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C·D, H, W)."""
        return volume.flatten(1, 2)


REDUCTIONS = ("zconv", "mean", "max", "tensor", "attention")
INPUT_REDUCTIONS = ("channels", *REDUCTIONS)


def make_reduction(name: str, *, channels: int, depth: int, out_channels: int) -> nn.Module:
    """The reduction called `name` from `channels` and `depth` layers, to `out_channels` where it can choose.

    All but `zconv` keep the channels: they need channels == out_channels.

    Raises:
        ValueError: no such reduction, or channels that it cannot change.
    """
    if name not in REDUCTIONS:
        raise ValueError(f"unknown reduction of depth {name!r}; there are {', '.join(REDUCTIONS)}")
    if name == "zconv":
        return ZConv(channels, depth, out_channels)
    if channels != out_channels:
        raise ValueError(f"reduction {name!r} keeps its {channels} channels and cannot make {out_channels}; use zconv")
    if name == "tensor":
        return ZTensor(channels, depth)
    return {"mean": ZMean, "max": ZMax, "attention": ZAttention}[name](channels)


def input_reduction(name: str, *, channels: int, depth: int, width: int) -> nn.Module:
    """What stands in front of a 2D network that takes any number of channels: see its `out_channels`.

    "channels" makes channels·depth of them, `zconv` makes `width`, the others keep `channels`.

    Raises:
        ValueError: no such reduction.
    """
    if name not in INPUT_REDUCTIONS:
        raise ValueError(f"reduction {name!r} is not possible; there are {', '.join(INPUT_REDUCTIONS)}")
    if name == "channels":
        return ZChannels(channels, depth)
    return make_reduction(name, channels=channels, depth=depth, out_channels=width if name == "zconv" else channels)

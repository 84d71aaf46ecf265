"""Blocks that two or more families share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Triple = tuple[int, int, int]


def conv3d(volume: Tensor, kernel: Tensor, bias: Tensor | None = None, *, stride: Triple, padding: Triple) -> Tensor:
    """`F.conv3d`, whose gradients can be trusted in bf16 on a CPU: (B, C, D, H, W), (C', C, kz, ky, kx) -> (B, C', …).

    On CPUs with native bf16, oneDNN leaves taps of the kernel's gradient unwritten (garbage up to 1e38, NaN) where
    Z is padded and the volume has fewer layers than the kernel and more than one; seen with torch 2.15 for 3³ and 5³.
    Z is padded beforehand then: the same sums, nothing unwritten, and such volumes are small. Models with
    `nn.Conv3d`s that pad Z are trained in fp32 there (`zoo.train.engine.training_precision`).
    """
    z, y, x = padding
    if z and 1 < volume.shape[2] < kernel.shape[2]:
        return F.conv3d(F.pad(volume, (0, 0, 0, 0, z, z)), kernel, bias, stride=stride, padding=(0, y, x))
    return F.conv3d(volume, kernel, bias, stride=stride, padding=padding)


def in_full(tensor: Tensor) -> Tensor:
    """A tensor in full: one that is sharded over devices gathered from all of them, any other as it is.

    In a model for small parameters that are read outside their module's forward, where a sharded one is not whole.
    """
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


class Conv3d(nn.Module):
    """A 3D convolution with a cubic kernel of odd side, zero-padded by half of it; see `conv3d` for why not torch's.

    Initialised and named (`weight`, `bias`) as `nn.Conv3d`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, side: int, *, stride: Triple = (1, 1, 1), bias: bool = True
    ):
        super().__init__()
        like = nn.Conv3d(in_channels, out_channels, side, bias=bias)
        self.weight, self.bias = like.weight, like.bias
        half = side // 2
        self.stride, self.padding = stride, (half, half, half)

    def forward(self, volume: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C', D/sz, H/sy, W/sx), rounded up."""
        return conv3d(volume, self.weight, self.bias, stride=self.stride, padding=self.padding)


def conv_block_3d(inputs: int, outputs: int, stride: Triple = (1, 1, 1)) -> nn.Sequential:
    """3x3x3 convolution, BatchNorm, GELU: (B, inputs, D, H, W) -> (B, outputs, D, H, W) / stride, rounded up."""
    conv = Conv3d(inputs, outputs, 3, stride=stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(outputs), nn.GELU())


def volume_stem(width: int) -> nn.Sequential:
    """Three 3x3x3 convolutions: (B, 1, D, H, W) -> (B, 2·width, D/2, H/4, W/4), rounded up.

    They slide along Z: what they learn on a surface at one depth holds where it lies deeper, while a convolution with Z
    as channels has to learn each depth apart.
    """
    return nn.Sequential(
        conv_block_3d(1, width, (1, 2, 2)),
        conv_block_3d(width, 2 * width, (2, 2, 2)),
        conv_block_3d(2 * width, 2 * width),
    )


def run_block(block: nn.Module, *inputs: Any, again: bool) -> Any:
    """`block(*inputs)`; with `again` its activations are computed again in the backward pass instead of kept."""
    if not again or not torch.is_grad_enabled():
        return block(*inputs)
    return checkpoint(block, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(block)))


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Whatever runs inside updates copies of BatchNorm's statistics: a batch computed again must not count twice."""
    kept = [(part, name, buffer) for part in block.modules() for name, buffer in part.named_buffers(recurse=False)]
    for part, name, buffer in kept:
        setattr(part, name, buffer.clone())
    try:
        yield
    finally:
        for part, name, buffer in kept:
            setattr(part, name, buffer)

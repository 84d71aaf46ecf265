"""Blocks that two or more families share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def conv3d_same(volume: Tensor, kernel: Tensor) -> Tensor:
    """(B, C, D, H, W), (C', C, k, k, k) with k odd -> (B, C', D, H, W): 'same' padding, stride 1, no bias.

    On CPUs with native bf16, oneDNN leaves taps of the kernel's gradient unwritten (garbage up to 1e38, NaN) where
    the volume has fewer layers than the kernel and more than one; seen with torch 2.15 for 3³ and 5³. Z is padded
    beforehand then: the same sums, nothing unwritten, and such volumes are small.
    """
    half = kernel.shape[-1] // 2
    if 1 < volume.shape[2] < kernel.shape[2]:
        return F.conv3d(F.pad(volume, (0, 0, 0, 0, half, half)), kernel, padding=(0, half, half))
    return F.conv3d(volume, kernel, padding=half)

"""The U-Net of MoDE convolutions, without a way to 2D of its own; and the same with its experts fused for one task."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from zoo.models.layers import Triple, run_block
from zoo.models.mode_conv import PAPER_EXPERTS, ExpertSpec, FusedConv3d, MoDEConv3d, Runs


class _Unit(nn.Module):
    """MoDE convolution, BatchNorm, ReLU."""

    def __init__(self, conv: MoDEConv3d, channels: int):
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm3d(channels)

    def forward(self, volume: Tensor, runs: Runs | None) -> Tensor:
        return F.relu(self.norm(self.conv(volume, runs)), inplace=True)


class _Pair(nn.Module):
    """Two units: what every level of the U consists of."""

    def __init__(
        self, in_channels: int, out_channels: int, tasks: int, experts: Sequence[ExpertSpec], *, flat: bool = False
    ):
        super().__init__()
        self.first = _Unit(MoDEConv3d(in_channels, out_channels, tasks, experts, flat=flat), out_channels)
        self.second = _Unit(MoDEConv3d(out_channels, out_channels, tasks, experts, flat=flat), out_channels)

    def forward(self, volume: Tensor, runs: Runs | None) -> Tensor:
        return self.second(self.first(volume, runs), runs)


def _strided(conv: type[nn.Conv3d | nn.ConvTranspose3d], in_channels: int, out_channels: int, step: Triple):
    """A convolution whose kernel is its stride, BatchNorm, ReLU: down, up and stem."""
    return nn.Sequential(
        conv(in_channels, out_channels, step, stride=step, bias=False),
        nn.BatchNorm3d(out_channels),
        nn.ReLU(inplace=True),
    )


class RepModeNet(nn.Module):
    """Encoder and decoder: (B, 1, D, H, W) -> (B, out_channels, D, H/s, W/s), s the stem's stride in plane.

    Args:
        widths: channels of each level, the bottleneck last.
        steps: (z, y, x) strides between the levels, one fewer than widths.
        stem: (z, y, x) stride of a patch convolution to widths[0] channels before the first level; None: none.
        tasks: tasks that the gates tell apart.
        experts: of every MoDE convolution, see `zoo.models.mode_conv.parse_experts`.
        reductions: None for the 3D decoder. For the 2D decoder one module a level, (B, w, d, h, w) -> (B, w, h, w):
            skips and bottleneck become 2D, the decoder's experts have one tap along Z, and the answer one layer.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (32, 64, 128, 256, 512),
        steps: Sequence[Triple] = ((2, 2, 2),) * 4,
        stem: Triple | None = None,
        tasks: int = 1,
        out_channels: int = 1,
        experts: Sequence[ExpertSpec] = PAPER_EXPERTS,
        reductions: Sequence[nn.Module] | None = None,
    ):
        super().__init__()
        flat = reductions is not None
        ups: list[Triple] = [(1, y, x) for _, y, x in steps] if flat else list(steps)
        self.stem = _strided(nn.Conv3d, 1, widths[0], stem) if stem else nn.Identity()
        entries = [widths[0] if stem else 1, *widths[:-1]]
        self.encoder = nn.ModuleList(
            _Pair(i, o, tasks, experts) for i, o in zip(entries[:-1], widths[:-1], strict=True)
        )
        self.down = nn.ModuleList(_strided(nn.Conv3d, w, w, step) for w, step in zip(widths[:-1], steps, strict=True))
        self.bottleneck = _Pair(entries[-1], widths[-1], tasks, experts)
        self.up = nn.ModuleList(
            _strided(nn.ConvTranspose3d, deep, w, step)
            for w, deep, step in zip(widths[:-1], widths[1:], ups, strict=True)
        )
        self.decoder = nn.ModuleList(_Pair(2 * w, w, tasks, experts, flat=flat) for w in widths[:-1])
        self.last = MoDEConv3d(widths[0], out_channels, tasks, experts, flat=flat)
        self.flatten = nn.ModuleList(reductions or [])
        self.grad_checkpointing = False

    def forward(self, volume: Tensor, runs: Runs | None = None) -> Tensor:
        """(B, 1, D, H, W) in the order that `runs` tells -> (B, out_channels, D or 1, H/sy, W/sx)."""
        skips = []
        features = self.stem(volume)
        for level, (pair, down) in enumerate(zip(self.encoder, self.down, strict=True)):
            skip = run_block(pair, features, runs, again=self.grad_checkpointing)
            features = down(skip)
            skips.append(self._flat(skip, level))
        features = run_block(self.bottleneck, features, runs, again=self.grad_checkpointing)
        features = self._flat(features, len(skips))
        for pair, up, skip in zip(reversed(self.decoder), reversed(self.up), reversed(skips), strict=True):
            features = run_block(pair, torch.cat([skip, up(features)], dim=1), runs, again=self.grad_checkpointing)
        return self.last(features, runs)

    def _flat(self, features: Tensor, level: int) -> Tensor:
        return self.flatten[level](features).unsqueeze(2) if len(self.flatten) else features


@torch.no_grad()
def fuse_net(net: RepModeNet, task: int, *, fold_norm: bool) -> RepModeNet:
    """A copy for one task, each MoDE convolution one plain kernel; with `fold_norm` BatchNorm is folded in everywhere.

    Equal to `net` in evaluation. Folded, it holds for the running statistics of now, and can no longer be trained as
    the net could.
    """
    parts: dict[int, nn.Module] = {}  # what stands for what in the copy, by identity, as deepcopy's memo has it
    for module in net.modules():
        if isinstance(module, MoDEConv3d):
            parts[id(module)] = FusedConv3d(module.kernel(task))
    if fold_norm:
        for unit in (module for module in net.modules() if isinstance(module, _Unit)):
            fused = parts[id(unit.conv)]
            assert isinstance(fused, FusedConv3d)
            parts[id(unit.conv)] = FusedConv3d(*_folded(fused.weight, unit.norm))
            parts[id(unit.norm)] = nn.Identity()
        for block in (block for block in (net.stem, *net.down, *net.up) if isinstance(block, nn.Sequential)):
            conv, norm = block[0], block[1]
            assert isinstance(conv, (nn.Conv3d, nn.ConvTranspose3d)) and isinstance(norm, nn.BatchNorm3d)
            parts[id(conv)] = _with_bias(conv, norm)
            parts[id(norm)] = nn.Identity()
    return copy.deepcopy(net, dict(parts))


def _folded(weight: Tensor, norm: nn.BatchNorm3d, *, transpose: bool = False) -> tuple[Tensor, Tensor]:
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    kernel, bias = fuse_conv_bn_weights(weight, None, mean, var, norm.eps, norm.weight, norm.bias, transpose)
    return kernel.detach(), bias.detach()


def _with_bias(conv: nn.Conv3d | nn.ConvTranspose3d, norm: nn.BatchNorm3d) -> nn.Module:
    folded = copy.deepcopy(conv)
    kernel, bias = _folded(conv.weight, norm, transpose=isinstance(conv, nn.ConvTranspose3d))
    folded.weight, folded.bias = nn.Parameter(kernel), nn.Parameter(bias)
    return folded

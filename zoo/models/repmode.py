"""RepMode (CVPR 2023): a 3D U-Net of MoDE convolutions, five experts each, mixed by the task and fused into one kernel.

A MoDE convolution never computes its experts apart. Their kernels are written as 5³ kernels and summed with the gate's
weights (the reparameterisation), so a training step runs one convolution a layer for each distinct task in the batch,
whatever the number of experts and of samples. The batch is put in order of its tasks once, at the entry of the
network. Kernels are fused in the precision of the weights (fp32 under autocast, which then casts the one fused kernel
where it casts any convolution's): summing five kernels in bf16 would cost three digits for no time won.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.card import ModelCard
from zoo.models.base import Heads, InkModel
from zoo.models.depth import make_reduction, pad_depth
from zoo.models.layers import Triple, conv3d

EXPERTS = ("conv5", "conv3", "conv1", "avg3", "avg5")
Runs = Sequence[tuple[int, int]]  # (task, number of samples), in the order of the batch


class MoDEConv3d(nn.Module):
    """A mixture of diverse experts as one 5³ convolution, 'same' padding, stride 1, no bias.

    Experts, all in_channels to out_channels: conv 5³, conv 3³, conv 1³, conv 1³ then average 3³, conv 1³ then average
    5³ (averages count the padding). The gate weighs them for each task and output channel, softmax over the experts.
    """

    def __init__(self, in_channels: int, out_channels: int, tasks: int = 1):
        super().__init__()
        self.tasks = tasks
        shape = (out_channels, in_channels)
        self.conv5 = nn.Parameter(torch.empty(*shape, 5, 5, 5))
        self.conv3 = nn.Parameter(torch.empty(*shape, 3, 3, 3))
        self.conv1 = nn.Parameter(torch.empty(*shape, 1, 1, 1))
        self.avg3 = nn.Parameter(torch.empty(*shape, 1, 1, 1))
        self.avg5 = nn.Parameter(torch.empty(*shape, 1, 1, 1))
        for name in EXPERTS:
            nn.init.kaiming_uniform_(getattr(self, name), a=math.sqrt(5))
        self.gate = nn.Linear(tasks, len(EXPERTS) * out_channels)

    def gates(self) -> Tensor:
        """(tasks, 5, out_channels), which sum to one over the experts. The linear map of every one-hot task at once."""
        return (self.gate.weight.t() + self.gate.bias).unflatten(1, (len(EXPERTS), -1)).softmax(dim=1)

    def kernel(self, task: int) -> Tensor:
        """The fused kernel of one task: (out_channels, in_channels, 5, 5, 5)."""
        gate = self.gates()[task][:, :, None, None, None, None]
        # from the inside out, so that only three operations touch all 125 taps
        inner = gate[1] * self.conv3 + gate[3] / 27 * self.avg3 + F.pad(gate[2] * self.conv1, (1,) * 6)
        return torch.addcmul(gate[4] / 125 * self.avg5, gate[0], self.conv5) + F.pad(inner, (1,) * 6)

    def forward(self, volume: Tensor, runs: Runs | None = None) -> Tensor:
        """(B, C, D, H, W) -> (B, C', D, H, W). `runs`: the tasks of the batch in its order; None: all task 0."""
        runs = runs or ((0, volume.shape[0]),)
        if len(runs) == 1:
            return self._fused(volume, runs[0][0])
        parts = volume.split([count for _, count in runs])
        return torch.cat([self._fused(part, task) for part, (task, _) in zip(parts, runs, strict=True)])

    def _fused(self, volume: Tensor, task: int) -> Tensor:
        return conv3d(volume, self.kernel(task), stride=(1, 1, 1), padding=(2, 2, 2))


def order_by_task(task: Tensor | None, batch: int, tasks: int) -> tuple[Tensor | None, Runs]:
    """(order, runs): the permutation that puts equal tasks side by side (None: as it is), and what then follows what.

    Args:
        task: (B,) integers in 0..tasks-1; None where there is one task only.

    Raises:
        ValueError: no task given to a model of several, wrong shape, or a task it was not built for.
    """
    if task is None:
        if tasks > 1:
            raise ValueError(f"built for {tasks} tasks: pass task, (B,) integers from 0 to {tasks - 1}")
        return None, ((0, batch),)
    if task.shape != (batch,) or task.is_floating_point():
        raise ValueError(f"got task of shape {tuple(task.shape)}, {task.dtype}; expected ({batch},) integers")
    present = task.unique().tolist()  # the one synchronisation of a forward
    if present[0] < 0 or present[-1] >= tasks:
        raise ValueError(f"got task {present[0] if present[0] < 0 else present[-1]}, built for 0 to {tasks - 1}")
    if len(present) == 1:
        return None, ((present[0], batch),)
    order = task.argsort(stable=True)
    counts = task.bincount(minlength=tasks).tolist()
    return order, tuple((which, counts[which]) for which in present)


class _Unit(nn.Module):
    """MoDE convolution, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, tasks: int):
        super().__init__()
        self.conv = MoDEConv3d(in_channels, out_channels, tasks)
        self.norm = nn.BatchNorm3d(out_channels)

    def forward(self, volume: Tensor, runs: Runs) -> Tensor:
        return F.relu(self.norm(self.conv(volume, runs)), inplace=True)


class _Pair(nn.Module):
    """Two units: what every level of the U consists of."""

    def __init__(self, in_channels: int, out_channels: int, tasks: int):
        super().__init__()
        self.first = _Unit(in_channels, out_channels, tasks)
        self.second = _Unit(out_channels, out_channels, tasks)

    def forward(self, volume: Tensor, runs: Runs) -> Tensor:
        return self.second(self.first(volume, runs), runs)


def _strided(conv: type[nn.Conv3d | nn.ConvTranspose3d], in_channels: int, out_channels: int, step: Triple):
    """A convolution whose kernel is its stride, BatchNorm, ReLU: down, up and stem."""
    return nn.Sequential(
        conv(in_channels, out_channels, step, stride=step, bias=False),
        nn.BatchNorm3d(out_channels),
        nn.ReLU(inplace=True),
    )


class RepModeNet(nn.Module):
    """The 3D encoder and decoder: (B, 1, D, H, W) -> (B, out_channels, D, H/s, W/s), s the stem's stride in plane.

    Args:
        widths: channels of each level, the bottleneck last.
        steps: (z, y, x) strides between the levels, one fewer than widths.
        stem: (z, y, x) stride of a patch convolution to widths[0] channels before the first level; None: none.
        tasks: tasks that the gates tell apart.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (32, 64, 128, 256, 512),
        steps: Sequence[Triple] = ((2, 2, 2),) * 4,
        stem: Triple | None = None,
        tasks: int = 1,
        out_channels: int = 1,
    ):
        super().__init__()
        self.stem = _strided(nn.Conv3d, 1, widths[0], stem) if stem else nn.Identity()
        entries = [widths[0] if stem else 1, *widths[:-1]]
        self.encoder = nn.ModuleList(_Pair(i, o, tasks) for i, o in zip(entries[:-1], widths[:-1], strict=True))
        self.down = nn.ModuleList(_strided(nn.Conv3d, w, w, step) for w, step in zip(widths[:-1], steps, strict=True))
        self.bottleneck = _Pair(entries[-1], widths[-1], tasks)
        self.up = nn.ModuleList(
            _strided(nn.ConvTranspose3d, deep, w, step)
            for w, deep, step in zip(widths[:-1], widths[1:], steps, strict=True)
        )
        self.decoder = nn.ModuleList(_Pair(2 * w, w, tasks) for w in widths[:-1])
        self.last = MoDEConv3d(widths[0], out_channels, tasks)

    def forward(self, volume: Tensor, runs: Runs) -> Tensor:
        """(B, 1, D, H, W) in the order that `runs` tells -> (B, out_channels, D/sz, H/sy, W/sx)."""
        skips = []
        features = self.stem(volume)
        for pair, down in zip(self.encoder, self.down, strict=True):
            skips.append(pair(features, runs))
            features = down(skips[-1])
        features = self.bottleneck(features, runs)
        for pair, up, skip in zip(reversed(self.decoder), reversed(self.up), reversed(skips), strict=True):
            features = pair(torch.cat([skip, up(features)], dim=1), runs)
        return self.last(features, runs)


class RepMode(InkModel):
    """RepModeNet over the layers, then Z to 2D.

    Layers are edge-padded to a multiple of the network's strides in Z, and the padding is cut off before Z becomes 2D.
    """

    def __init__(
        self,
        card: ModelCard,
        *,
        depth: int,
        tile: int,
        classes: int,
        widths: Sequence[int],
        steps: Sequence[Triple],
        stem: Triple | None,
        tasks: int,
        reduction: str,
        volume_channels: int,
    ):
        super().__init__(card, depth=depth, tile=tile, classes=classes)
        if tasks < 1:
            raise ValueError(f"{card.name}: tasks {tasks} is not possible; 1 or more")
        self.tasks = tasks
        self.z_multiple = math.prod(step[0] for step in steps)
        channels = volume_channels if reduction == "zconv" else classes
        self.net = RepModeNet(widths=widths, steps=steps, stem=stem, tasks=tasks, out_channels=channels)
        self.reduction = make_reduction(reduction, channels=channels, depth=depth, out_channels=classes)

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        """(B, 1, D, H, W) -> one head (B, classes, H/out_stride, W/out_stride); aux `gates`, see `gates()`.

        `task`: (B,) long, needed where the model was built for several; a batch may mix them.
        """
        order, runs = order_by_task(task, volume.shape[0], self.tasks)
        padded, before = pad_depth(volume if order is None else volume[order], self.z_multiple)
        if volume.device.type == "cpu":  # oneDNN takes a third of the time for few channels
            padded = padded.contiguous(memory_format=torch.channels_last_3d)
        features = self.net(padded, runs)[:, :, before : before + self.depth]
        logits = self.reduction(features)
        return Heads([logits if order is None else logits[order.argsort()]], {"gates": self.gates()})

    def gates(self) -> Tensor:
        """(MoDE layers, tasks, 5): the mean weight of each expert over a layer's output channels."""
        layers = [module for module in self.modules() if isinstance(module, MoDEConv3d)]
        return torch.stack([layer.gates().mean(dim=2) for layer in layers])


_PAPER = (
    "Zhou et al.: RepMode: Learning to Re-parameterize Diverse Experts for Subcellular Structure Prediction, CVPR 2023"
)
_LICENCE = "Apache-2.0 (written from the paper; the authors' code is non-commercial and none of it is here)"
_OPTIONS = {
    "tasks": "how many tasks the gates tell apart (fragments, scan energies, modalities); with more than one every "
    "call needs task=(B,) integers (default 1)",
    "reduction": "Z to 2D: zconv (Z as channels, default), mean, max or attention",
}
CARDS = {
    "repmode_tiny": ModelCard(
        name="repmode_tiny",
        family="repmode",
        summary="narrow MoDE U-Net behind a 4-px patch convolution; Z becomes 2D by a convolution with Z as channels",
        paper=_PAPER,
        url="https://arxiv.org/abs/2212.10066",
        licence=_LICENCE,
        depth=16,
        tile=96,
        multiple=16,
        min_tile=32,
        out_stride=4,
        differs=(
            "a patch convolution with stride (1, 4, 4) first, so that all MoDE convolutions run at a quarter of the "
            "resolution in plane and at full resolution in Z; the head is at a quarter too",
            "three levels of 16, 32 and 64 channels instead of five of 32 to 512",
            "the last MoDE convolution makes 4 channels, which a 3×3 convolution with Z as channels turns to 2D",
        ),
        options=_OPTIONS,
    ),
    "repmode_base": ModelCard(
        name="repmode_base",
        family="repmode",
        summary="the published 3D MoDE U-Net, width 32; Z becomes 2D by a convolution with Z as channels",
        paper=_PAPER,
        url="https://arxiv.org/abs/2212.10066",
        licence=_LICENCE,
        depth=64,
        tile=64,
        multiple=16,
        min_tile=32,
        out_stride=1,
        differs=(
            "a 3×3 convolution with Z as channels after the last layer: the paper predicts volumes, ink is a 2D map",
            "layers are edge-padded to a multiple of 16 inside",
            "each sample is computed with its own task in training and in evaluation alike, one convolution a layer "
            "for each distinct task",
        ),
        options=_OPTIONS,
    ),
}


def build_repmode_tiny(*, depth: int, tile: int, classes: int = 1, tasks: int = 1, reduction: str = "zconv") -> RepMode:
    """The variant for two CPU cores; the head is at a quarter of the resolution."""
    return RepMode(
        CARDS["repmode_tiny"],
        depth=depth,
        tile=tile,
        classes=classes,
        widths=(16, 32, 64),
        steps=((2, 2, 2), (2, 2, 2)),
        stem=(1, 4, 4),
        tasks=tasks,
        reduction=reduction,
        volume_channels=4,
    )


def build_repmode(
    *, depth: int, tile: int, classes: int = 1, width: int = 32, tasks: int = 1, reduction: str = "zconv"
) -> RepMode:
    """The published network at any width; the levels have 1, 2, 4, 8 and 16 times as many channels."""
    if width < 1:
        raise ValueError(f"repmode: width {width} is not possible; 1 or more (the paper has 32)")
    return RepMode(
        CARDS["repmode_base"],
        depth=depth,
        tile=tile,
        classes=classes,
        widths=(width, 2 * width, 4 * width, 8 * width, 16 * width),
        steps=((2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
        stem=None,
        tasks=tasks,
        reduction=reduction,
        volume_channels=1,
    )


def build_repmode_base(*, depth: int, tile: int, classes: int = 1, tasks: int = 1, reduction: str = "zconv") -> RepMode:
    """The published width, 32: 123,715,658 parameters for one task, and the reduction's."""
    return build_repmode(depth=depth, tile=tile, classes=classes, width=32, tasks=tasks, reduction=reduction)

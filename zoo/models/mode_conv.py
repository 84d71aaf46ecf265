"""The MoDE convolution: a mixture of diverse experts, weighed by the task, that runs as one convolution.

The experts are never computed apart. Their kernels are written into one kernel of the largest shape and summed with
the gate's weights (the reparameterisation), so a training step runs one convolution a layer for each distinct task in
the batch, whatever the number of experts and of samples. The batch is put in order of its tasks once, at the entry of
the network. Kernels are fused in the precision of the weights (fp32 under autocast, which then casts the one fused
kernel where it casts any convolution's): summing five kernels in bf16 would cost three digits for no time won.

Taps that reach beyond a small volume from each of its voxels only ever meet padding: in the deepest levels of a U-Net
(one layer left of sixteen) four fifths of a 5³ kernel. They are neither fused nor convolved.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.layers import Triple, conv3d, in_full

Runs = Sequence[tuple[int, int]]  # (task, number of samples), in the order of the batch
ExpertSpec = Sequence[int | str]  # (z, y, x): a convolution; ("avg", z, y, x): a 1³ convolution, then an average

PAPER_EXPERTS: tuple[ExpertSpec, ...] = ((5, 5, 5), (3, 3, 3), (1, 1, 1), ("avg", 3, 3, 3), ("avg", 5, 5, 5))


class Expert(NamedTuple):
    """One expert: `name` as in `conv5`, `conv1x5x5` or `avg3`, its shape (z, y, x), whether it averages."""

    name: str
    shape: Triple
    average: bool


def parse_experts(specs: Sequence[ExpertSpec]) -> tuple[Expert, ...]:
    """Kernel shapes (z, y, x), and ("avg", z, y, x) for averages -> experts with their names.

    Raises:
        ValueError: no expert, a shape that is not three odd sides, or the same expert twice.
    """
    experts = []
    for spec in specs:
        average = len(spec) == 4 and spec[0] == "avg"
        sides = list(spec[1:] if average else spec)
        if len(sides) != 3 or not all(type(side) is int and side > 0 and side % 2 for side in sides):
            raise ValueError(
                f"expert {list(spec)} is not possible; a kernel shape of three odd sides (z, y, x) such as [1, 5, 5], "
                "or [avg, 3, 3, 3] for a 1×1×1 convolution followed by an average"
            )
        z, y, x = (int(side) for side in sides)
        name = f"{'avg' if average else 'conv'}{z if z == y == x else f'{z}x{y}x{x}'}"
        experts.append(Expert(name, (z, y, x), average))
    names = [expert.name for expert in experts]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"experts {', '.join(names) or '(none)'}: give one or more, each of them once")
    return tuple(experts)


class MoDEConv3d(nn.Module):
    """A mixture of diverse experts as one convolution, 'same' padding, stride 1, no bias.

    The paper's five experts, all in_channels to out_channels: conv 5³, conv 3³, conv 1³, conv 1³ then average 3³,
    conv 1³ then average 5³ (averages count the padding). The gate weighs the experts for each task and output channel,
    softmax over the experts.

    Args:
        tasks: tasks that the gate tells apart.
        experts: see `parse_experts`. The fused kernel is in each axis as long as the longest of them.
        flat: for volumes of one layer: every expert, under the same name, with one tap along Z.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        tasks: int = 1,
        experts: Sequence[ExpertSpec] = PAPER_EXPERTS,
        *,
        flat: bool = False,
    ):
        super().__init__()
        self.tasks = tasks
        parsed = parse_experts(experts)
        self.experts = tuple(e._replace(shape=(1, *e.shape[1:])) for e in parsed) if flat else parsed
        for expert in self.experts:
            weight = torch.empty(out_channels, in_channels, *((1, 1, 1) if expert.average else expert.shape))
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
            self.register_parameter(expert.name, nn.Parameter(weight))
        self.gate = nn.Linear(tasks, len(self.experts) * out_channels)

    def gates(self) -> Tensor:
        """(tasks, experts, out_channels), which sum to one over the experts: of every one-hot task at once."""
        weight, bias = in_full(self.gate.weight), in_full(self.gate.bias)  # they are read from outside as well
        return (weight.t() + bias).unflatten(1, (len(self.experts), -1)).softmax(dim=1)

    def kernel(self, task: int, extent: Triple | None = None) -> Tensor:
        """The fused kernel of one task: (out_channels, in_channels, kz, ky, kx).

        `extent`: (D, H, W) of the volume it is for; without the taps that lie outside it from each of its voxels.
        """
        gates = self.gates()[task][:, :, None, None, None, None]
        fused: dict[Triple, Tensor] = {}
        # from the inside out, so that few operations touch all the taps
        for expert, gate in sorted(zip(self.experts, gates, strict=True), key=_inside_out):
            shape = _reachable(expert.shape, extent)
            total = fused.pop(shape, None)
            for inner in [shape_ for shape_ in fused if all(a <= b for a, b in zip(shape_, shape, strict=True))]:
                wider = _widen(fused.pop(inner), shape)
                total = wider if total is None else total + wider
            weight = getattr(self, expert.name)
            if expert.average:
                share = gate / math.prod(expert.shape) * weight
                total = share.expand(-1, -1, *shape) if total is None else total + share
            else:
                weight = _centre(weight, shape)
                total = gate * weight if total is None else torch.addcmul(total, gate, weight)
            fused[shape] = total
        z, y, x = (max(sides) for sides in zip(*fused, strict=True))
        return functools.reduce(torch.add, [_widen(part, (z, y, x)) for part in fused.values()])

    def forward(self, volume: Tensor, runs: Runs | None = None) -> Tensor:
        """(B, C, D, H, W) -> (B, C', D, H, W). `runs`: the tasks of the batch in its order; None: all task 0."""
        runs = runs or ((0, volume.shape[0]),)
        if len(runs) == 1:
            return self._one_task(volume, runs[0][0])
        parts = volume.split([count for _, count in runs])
        return torch.cat([self._one_task(part, task) for part, (task, _) in zip(parts, runs, strict=True)])

    def _one_task(self, volume: Tensor, task: int) -> Tensor:
        return same_conv3d(volume, self.kernel(task, _extent(volume)))


class FusedConv3d(nn.Module):
    """What a MoDE convolution is for one task: a plain convolution, 'same' padding, stride 1.

    `weight`: (C', C, kz, ky, kx), odd sides; `bias`: (C',) or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.weight = nn.Parameter(weight.contiguous())  # the kernel of averages alone holds each value once
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, volume: Tensor, runs: Runs | None = None) -> Tensor:
        """(B, C, D, H, W) -> (B, C', D, H, W). `runs` are there for a MoDE convolution's place, and not read."""
        return same_conv3d(volume, self.weight, self.bias)


def same_conv3d(volume: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution that keeps (D, H, W), by as much of the kernel as can reach a voxel."""
    shape = kernel.shape[2:]
    z, y, x = _reachable((shape[0], shape[1], shape[2]), _extent(volume))
    kernel = _centre(kernel, (z, y, x))
    return conv3d(volume, kernel, bias, stride=(1, 1, 1), padding=(z // 2, y // 2, x // 2))


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
    if not isinstance(task, Tensor):
        raise ValueError(f"got task {task!r}; expected a tensor of ({batch},) integers, one for each tile")
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


def _inside_out(pair: tuple[Expert, Tensor]) -> tuple[int, bool]:
    expert, _ = pair
    return math.prod(expert.shape), not expert.average


def _extent(volume: Tensor) -> Triple:
    return volume.shape[2], volume.shape[3], volume.shape[4]


def _reachable(shape: Triple, extent: Triple | None) -> Triple:
    if extent is None:
        return shape
    z, y, x = (min(side, 2 * length - 1) for side, length in zip(shape, extent, strict=True))
    return z, y, x


def _centre(kernel: Tensor, shape: Triple) -> Tensor:
    for axis, side in enumerate(shape, start=2):
        spare = kernel.shape[axis] - side
        if spare:
            kernel = kernel.narrow(axis, spare // 2, side)
    return kernel


def _widen(kernel: Tensor, shape: Triple) -> Tensor:
    z, y, x = ((side - has) // 2 for side, has in zip(shape, kernel.shape[2:], strict=True))
    return F.pad(kernel, (x, x, y, y, z, z)) if z or y or x else kernel

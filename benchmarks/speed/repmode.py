"""RepMode's training step beside the two ways in which others run it, and fused inference beside unfused.

    python benchmarks/speed/repmode.py [--width 32] [--side 64] [--repeats 3]

The whole network at batch 4, same weights, same BatchNorm, same input; only the MoDE convolutions differ:

    ours      one fused kernel and one convolution a layer for each distinct task of the batch
    branches  every expert convolved apart over the whole batch, averages by pooling, weighed and summed
    loop      every sample convolved with its own fused kernel, as the published code trains, also where tasks agree

How many tasks a batch holds decides how far ours is ahead: with one it runs one convolution a layer, with as many as
samples it is the loop (less the taps that only meet padding). All are run in turn, so that a slow moment of the
machine hits all of them, after a small input that warms up and on which they must agree. A step is forward, mean of
squares, backward. On a CPU the ratios are of CPU seconds, which other work on the machine moves less than wall time.
"""

from __future__ import annotations

import argparse
import copy
import platform
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.mode_conv import MoDEConv3d, Runs
from zoo.models.repmode_net import RepModeNet, fuse_net

BATCH, TASKS = 4, 4
BATCHES: dict[str, Runs] = {
    "one task": ((0, 4),),
    "two tasks": ((0, 2), (1, 2)),
    "four tasks": tuple((t, 1) for t in range(4)),
}


class Branches(nn.Module):
    """The five experts apart."""

    def __init__(self, mixture: MoDEConv3d):
        super().__init__()
        self.mixture = mixture

    def forward(self, volume: Tensor, runs: Runs) -> Tensor:
        gates = self.mixture.gates()[_tasks(runs)][..., None, None, None]  # (B, 5, C', 1, 1, 1)
        total = None
        for index, expert in enumerate(self.mixture.experts):
            half = [side // 2 for side in expert.shape]
            weight = getattr(self.mixture, expert.name)
            if expert.average:
                branch = _average(F.conv3d(volume, weight), expert.shape[0])
            else:
                branch = F.conv3d(volume, weight, padding=half)
            total = gates[:, index] * branch if total is None else total + gates[:, index] * branch
        assert total is not None
        return total


def _average(volume: Tensor, side: int) -> Tensor:
    if min(volume.shape[2:]) >= side:
        return F.avg_pool3d(volume, side, stride=1, padding=side // 2)
    return F.avg_pool3d(F.pad(volume, (side // 2,) * 6), side, stride=1)  # refuses fewer layers, though padded


class Loop(nn.Module):
    """One fused kernel and one convolution a sample. The experts are written as 5³ kernels once a layer and step."""

    def __init__(self, mixture: MoDEConv3d):
        super().__init__()
        self.mixture = mixture

    def forward(self, volume: Tensor, runs: Runs) -> Tensor:
        gates = self.mixture.gates()[_tasks(runs)][..., None, None, None, None]
        experts = []
        for expert in self.mixture.experts:
            weight, side = getattr(self.mixture, expert.name), expert.shape[0]
            if expert.average:
                weight = weight.expand(-1, -1, side, side, side) / side**3
            experts.append(F.pad(weight, ((5 - side) // 2,) * 6))
        outputs = []
        for sample, gate in zip(volume.split(1), gates, strict=True):
            kernel = gate[0] * experts[0]
            for share, expert in zip(gate[1:], experts[1:], strict=True):
                kernel = kernel + share * expert
            outputs.append(F.conv3d(sample, kernel, padding=2))
        return torch.cat(outputs)


def _tasks(runs: Runs) -> list[int]:
    return [task for task, count in runs for _ in range(count)]


def with_layers(net: RepModeNet, kind: Callable[[MoDEConv3d], nn.Module]) -> RepModeNet:
    """The same network on the same parameters, each MoDE convolution run as `kind` does."""
    stands_for: dict[int, object] = {id(parameter): parameter for parameter in net.parameters()}
    stands_for |= {id(module): kind(module) for module in net.modules() if isinstance(module, MoDEConv3d)}
    return copy.deepcopy(net, stands_for)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--width", type=int, default=32, help="channels of the first level")
    parser.add_argument("--depth", type=int, default=16, help="layers, a multiple of 16")
    parser.add_argument("--side", type=int, default=64, help="side of a tile, px, a multiple of 16")
    parser.add_argument("--repeats", type=int, default=3, help="timed repetitions of each")
    parser.add_argument("--batches", nargs="+", choices=list(BATCHES), default=["one task", "two tasks"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    net = RepModeNet(widths=[options.width * 2**level for level in range(5)], tasks=TASKS).to(device)
    volume = torch.randn(BATCH, 1, options.depth, options.side, options.side, device=device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"width {options.width}, batch {BATCH}, {options.depth}×{options.side}×{options.side}, fp32, {where}")
    print(f"torch {torch.__version__}, Python {platform.python_version()}; median of {options.repeats}")
    for name in options.batches:
        training(net, volume, name, options.repeats)
    inference(net, volume, options.repeats)


def training(net: RepModeNet, volume: Tensor, batch: str, repeats: int) -> None:
    ways = {"ours": net, "branches": with_layers(net, Branches), "loop": with_layers(net, Loop)}

    def step(way: RepModeNet) -> Callable[[Tensor], Tensor]:
        def run(tiles: Tensor) -> Tensor:
            net.zero_grad(set_to_none=True)
            output = way.train()(_laid_out(tiles), BATCHES[batch])
            output.square().mean().backward()
            return output.detach()

        return run

    report(f"training step, {batch}", {name: step(way) for name, way in ways.items()}, volume, repeats)
    net.zero_grad(set_to_none=True)


@torch.no_grad()
def inference(net: RepModeNet, volume: Tensor, repeats: int) -> None:
    net.eval()
    fused = fuse_net(net, 0, fold_norm=True)
    for count in (1, BATCH):
        ways: dict[str, Callable[[Tensor], Tensor]] = {
            "fused": lambda tiles: fused(_laid_out(tiles)),
            "unfused": lambda tiles: net(_laid_out(tiles)),
        }
        report(f"inference, batch {count}", ways, volume[:count], repeats)


def _laid_out(volume: Tensor) -> Tensor:
    """As the models lay it out; the peers gain by it too."""
    return volume.contiguous(memory_format=torch.channels_last_3d) if volume.device.type == "cpu" else volume


def report(what: str, ways: dict[str, Callable[[Tensor], Tensor]], volume: Tensor, repeats: int) -> None:
    """Run each in turn, check that they agree, print seconds and how many times the first's each took."""
    small = volume[..., :16, :16]
    expected, *others = [run(small) for run in ways.values()]
    for other in others:
        torch.testing.assert_close(other, expected, atol=1e-3, rtol=1e-3)
    wall: dict[str, list[float]] = {name: [] for name in ways}
    work: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            _settle(volume.device)
            began, spent = time.perf_counter(), time.process_time()
            run(volume)
            _settle(volume.device)
            wall[name].append(time.perf_counter() - began)
            work[name].append(time.process_time() - spent)
    counted = wall if volume.device.type == "cuda" else work
    first = median(next(iter(counted.values())))
    print(f"\n{what}")
    for name in ways:
        took = f"{median(wall[name]):8.3f} s" + (f", {median(work[name]):8.3f} CPU s" if counted is work else "")
        print(f"  {name:9} {took}  {median(counted[name]) / first:5.2f} times", flush=True)


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()

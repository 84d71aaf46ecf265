"""What each enhanced U-Net3+ and ELU-Net costs beside the plain one: time of a training step, and peak memory.

    python benchmarks/speed/enhanced.py [--family unet3plus] [--batch 2] [--depth 16] [--tile 128] [--rounds 3]

A step is forward and backward of the mean square of the logits, in fp32, without an optimiser. Every network has a
process of its own, in which its peak memory is that of its first full step: weights, gradients and activations. Then
they take a step each, round after round, one at a time, so that a busy moment of the machine hits all of them; a ratio
is the median over the rounds of the ratio to the plain network in the same round. On a CPU seconds are of processor
time, summed over the threads: waiting for a busy machine is not in them.

`as written`: the plain network with each branch up-sampled before it is convolved, as papers and peers have it,
instead of the other way round with the same result (`zoo.models.enhanced.conv_of_upsampled`). `checkpointed`: with
activations computed again in the backward pass.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import torch

from zoo.memory import PeakMemory
from zoo.models.enhanced import UpConv
from zoo.registry import create_model


@dataclass(frozen=True)
class Network:
    label: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    as_written: bool = False
    checkpointed: bool = False


def networks(family: str) -> list[Network]:
    """The plain one first."""
    cheap = {"kernel": "depthwise"}
    return [
        Network("plain", f"{family}_base"),
        Network("plain, as written", f"{family}_base", as_written=True),
        Network("plain, checkpointed", f"{family}_base", checkpointed=True),
        Network("enhanced", f"{family}_enhanced"),
        Network("enhanced, depthwise", f"{family}_enhanced", cheap),
        Network("enhanced, GLU", f"{family}_enhanced_glu"),
        Network("enhanced, GLU, depthwise", f"{family}_enhanced_glu", cheap),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", choices=("unet3plus", "elunet"), default="unet3plus")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--depth", type=int, default=16)
    parser.add_argument("--tile", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    shape = (options.batch, 1, options.depth, options.tile, options.tile)
    where = torch.cuda.get_device_name() if options.device.startswith("cuda") else platform.processor() or "CPU"
    print(
        f"{options.family}, batch {options.batch}, {options.depth} layers, {options.tile} px, "
        f"{options.rounds} rounds, fp32; {where}, {torch.get_num_threads()} threads; torch {torch.__version__}"
    )
    context = multiprocessing.get_context("spawn")
    unit = "s a step" if options.device.startswith("cuda") else "CPU s a step"
    runners, parameters, peaks = [], [], []
    for network in networks(options.family):
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(network, shape, options.device, theirs), daemon=True)
        process.start()
        theirs.close()  # so that a child that fails ends the wait for it
        count, peak = ours.recv()
        runners.append((process, ours))
        parameters.append(count)
        peaks.append(peak)
    seconds: list[list[float]] = [[] for _ in runners]
    for _ in range(options.rounds):
        for (_, connection), taken in zip(runners, seconds, strict=True):
            connection.send(True)
            taken.append(connection.recv())
    for process, connection in runners:
        connection.send(False)
        process.join()
    print(f"{'':26}{'parameters':>12}{unit:>14}{'× plain':>9}{'peak MB':>9}{'× plain':>9}")
    for network, count, taken, peak in zip(networks(options.family), parameters, seconds, peaks, strict=True):
        ratio = median(mine / plain for mine, plain in zip(taken, seconds[0], strict=True))
        print(
            f"{network.label:26}{count:12,}{median(taken):14.2f}{ratio:9.2f}{peak / 2**20:9.0f}{peak / peaks[0]:9.2f}"
        )


def serve(network: Network, shape: tuple[int, ...], device: str, connection: Connection) -> None:
    """In a process of its own: sends (parameters, bytes of the first step), then the seconds of each step asked for."""
    torch.manual_seed(0)
    model = create_model(network.name, depth=shape[2], tile=shape[3], **network.options).to(device).train()
    model.set_grad_checkpointing(network.checkpointed)
    for module in model.modules():
        if isinstance(module, UpConv) and network.as_written:
            module.swap = False
    on_gpu = device.startswith("cuda")
    clock = time.perf_counter if on_gpu else time.process_time

    def step(volume: torch.Tensor) -> float:
        began = clock()
        model.zero_grad()
        model(volume).square().mean().backward()
        if on_gpu:
            torch.cuda.synchronize()
        return clock() - began

    step(torch.randn(2, 1, shape[2], 32, 32, device=device))  # what libraries load for a first step is no part of it
    model.zero_grad()
    volume = torch.randn(shape, device=device)
    with PeakMemory(device, model) as peak:
        step(volume)
    connection.send((sum(p.numel() for p in model.parameters()), peak.bytes))
    while connection.recv():
        connection.send(step(volume))


if __name__ == "__main__":
    main()

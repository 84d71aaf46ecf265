"""SAM's image encoder at 1024 px: this project's attention beside segment_anything's, in memory and time.

    python benchmarks/speed/sam_attention.py [--size 1024] [--model sam_vit_b] [--device cpu] [--repeats 3]

segment_anything needs 9 GB forward and backward at 1024 px; a smaller --size shows less of the difference.
Both have the same weights, with random relative positions, and must agree. Each work is measured in a fresh process: on
a CPU the peak growth of anonymous memory over what is held once weights and image are there, on a GPU the allocator's
peak over the same; then the time of a second run, on a CPU the processor time of all threads. The contestants take
turns, so that a slow moment of the machine hits all of them.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from statistics import median

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from zoo.memory import PeakMemory
from zoo.models.sam import SIZES, SamSize
from zoo.models.sam_encoder import ImageEncoder

OURS, CHECKPOINTED, PEER = "ours", "ours, activation checkpointing", "segment_anything"
WORKS = {"forward": (PEER, OURS), "forward+backward": (PEER, OURS, CHECKPOINTED)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=1024, help="side of the image, px; a multiple of 16")
    parser.add_argument("--model", choices=[name for name in SIZES if name != "sam_tiny"], default="sam_vit_b")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, each of one process a row")
    parser.add_argument("--works", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--only", nargs=2, metavar=("WORK", "WHO"), help="measure one in this process, print JSON")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options, *options.only)))
        return
    print(f"{machine(options.device)}; {options.model} at {options.size} px, batch 1, {options.precision}")
    for work in options.works:
        contestants = WORKS[work]
        rounds = [{who: in_fresh_process(work, who) for who in contestants} for _ in range(options.repeats)]
        rows = {who: {key: median(r[who][key] for r in rounds) for key in rounds[0][who]} for who in contestants}
        peer = rows[PEER]
        print(f"\n{work}")
        for who, row in rows.items():
            if abs(row["answer"] - peer["answer"]) > 1e-3 * abs(peer["answer"]) and options.precision == "fp32":
                raise SystemExit(f"{who} answers {row['answer']}, {PEER} {peer['answer']}")
            print(
                f"  {who:32} {row['bytes'] / 2**20:8,.0f} MiB ({row['bytes'] / peer['bytes']:.2f})"
                f" {row['seconds']:8.2f} s ({row['seconds'] / peer['seconds']:.2f})"
            )
    print(f"\nin brackets: the ratio to {PEER}; medians of {options.repeats} fresh processes")


def in_fresh_process(work: str, who: str) -> dict[str, float]:
    command = [sys.executable, *sys.argv, "--only", work, who]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{who}, {work}: exit status {done.returncode} (killed for memory?)\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(options: argparse.Namespace, work: str, who: str) -> dict[str, float]:
    """Peak memory of the first run and time of the second, with a number that tells whether the answers agree."""
    device = torch.device(options.device)
    torch.manual_seed(0)
    size = SIZES[options.model]
    # a first call of every kernel in a network that needs next to nothing, so that no library is loaded later
    little = replace(size, width=size.width // size.heads, heads=1, blocks=2, global_blocks=(1,), embedding=8)
    step(build(little, 64, who).to(device), torch.randn(1, 3, 64, 64, device=device), work, options.precision)
    encoder = build(size, options.size, who).to(device)
    image = torch.randn(1, 3, options.size, options.size).to(device)
    gc.collect()
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    with PeakMemory(device) as peak:
        answer = step(encoder, image, work, options.precision)
    encoder.zero_grad(set_to_none=True)
    # on a CPU the time of this process alone, all threads together, so that what else the machine does counts little
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    began = clock()
    step(encoder, image, work, options.precision)
    return {"bytes": peak.bytes - held, "seconds": clock() - began, "answer": answer}


def build(size: SamSize, side: int, who: str) -> nn.Module:
    ours = ImageEncoder(
        channels=3,
        grid=side // size.patch,
        patch=size.patch,
        width=size.width,
        blocks=size.blocks,
        heads=size.heads,
        global_blocks=size.global_blocks,
        window=size.window,
        embedding=size.embedding,
    )
    for key, parameter in ours.named_parameters():
        if "rel_pos" in key:  # zero at first, where an error could hide
            nn.init.normal_(parameter, std=0.1)
    ours.grad_checkpointing = who == CHECKPOINTED
    if who != PEER:
        return ours
    theirs = ImageEncoderViT(
        img_size=side,
        embed_dim=size.width,
        depth=size.blocks,
        num_heads=size.heads,
        out_chans=size.embedding,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=size.window,
        global_attn_indexes=size.global_blocks,
    )
    theirs.load_state_dict(ours.state_dict(), assign=True)
    return theirs


def step(encoder: nn.Module, image: Tensor, work: str, precision: str) -> float:
    """A forward pass without gradients, or one with them and the backward pass."""
    with (
        torch.set_grad_enabled(work != "forward"),
        torch.autocast(image.device.type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        answer = encoder(image)
    total = (answer.float() ** 2 * torch.linspace(0, 1, answer.shape[-1], device=image.device)).mean()
    if work != "forward":
        total.backward()
    if total.is_cuda:
        torch.cuda.synchronize()
    return total.item()


def machine(device: str) -> str:
    if torch.device(device).type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{processor()}, {torch.get_num_threads()} of {os.cpu_count()} cores"
    return f"{name}; Python {platform.python_version()}, torch {torch.__version__}, segment-anything 1.0"


def processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()

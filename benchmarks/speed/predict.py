"""Predicting a segment: this project beside monai's sliding_window_inference, and what it adds to the model's time.

    python benchmarks/speed/predict.py peer [--model repmode_small] [--side 1000] [--tile 96] [--repeats 1]
    python benchmarks/speed/predict.py overhead [--model repmode_small] [--tile 96]
    python benchmarks/speed/predict.py whole [--model depthcnn_tiny] [--side 8000] [--layers 32]

peer: the same model, tiles, Gaussian weights and batches, from TIFF layers on the disk to a float map on the disk, in
fp32; the maps must agree within 1e-3. Then ours as it is shipped (RepMode fused, bf16 where native) beside monai with
the model as it was trained.
overhead: on 13 layers of 2000×2000 px and on the first eight shards of 32 layers of 8000×8000 px, the share of the time
that is not spent inside the model, and peak memory, which must not grow with the segment.
whole: the time of a whole large map.

Each measurement is a fresh process. On a CPU seconds are wall-clock in `overhead` and `whole`, and processor time of
all threads in `peer`, so that what else the machine does counts little; memory is the peak growth of anonymous memory
over what is held once the model is there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tifffile
import torch
from torch import Tensor

from data_recipes.fragment import Fragment, open_fragment
from data_recipes.tiles import InputContract
from zoo.device import resolve_precision
from zoo.memory import PeakMemory
from zoo.models.base import InkModel, ink_probability
from zoo.predict.grid import blend_window
from zoo.predict.job import make_job
from zoo.predict.plan import Plan
from zoo.predict.store import MapStore
from zoo.registry import create_model

LAYERS, OVERLAP, BATCH = 13, 0.5, 8
OURS, SHIPPED, PEER, PEER_TRAINED = "ours", "ours as shipped", "monai", "monai, model as trained"
PAIRS = ((OURS, PEER), (SHIPPED, PEER_TRAINED))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("peer", "overhead", "whole"))
    parser.add_argument("--model", default="repmode_small")
    parser.add_argument("--tile", type=int, default=96)
    parser.add_argument("--side", type=int, help="of the segment, px (peer: 1000, whole: 8000)")
    parser.add_argument("--layers", type=int, default=32, help="of the large segment")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", nargs=3, metavar=("WHO", "SEGMENT", "OUT"), help="measure one here, print JSON")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("highest")
    if options.only:
        print(json.dumps(measure(options, *options.only)))
        return
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else processor()
    print(
        f"{name}, {torch.get_num_threads()} of {os.cpu_count()} cores; Python {platform.python_version()}, torch "
        f"{torch.__version__}; {options.model}, tiles of {options.tile} px, overlap {OVERLAP}, {BATCH} at once"
    )
    with tempfile.TemporaryDirectory(prefix="inkzoo-") as folder:
        {"peer": peer, "overhead": overhead, "whole": whole}[options.what](options, Path(folder))


def peer(options: argparse.Namespace, folder: Path) -> None:
    side = options.side or 1000
    write_segment(folder / "segment", LAYERS, side)
    for ours, theirs in PAIRS:
        rounds = [
            {
                who: fresh(who, folder / "segment", folder / f"{number}-{who.replace(' ', '-')}")
                for who in (ours, theirs)
            }
            for number in range(options.repeats)
        ]
        maps = [np.load(rounds[0][who]["map"]) for who in (ours, theirs)]
        apart = float(np.abs(maps[0] - maps[1]).max())
        if ours == OURS and apart > 1e-3:
            raise SystemExit(f"the maps differ by {apart:.5f}")
        print(
            f"\n{LAYERS} layers of {side}×{side} px; the maps differ by {apart:.5f} at most (from {maps[0].min():.2f}"
            f" to {maps[0].max():.2f})"
        )
        for who in (ours, theirs):
            seconds, used = (median(r[who][key] for r in rounds) for key in ("seconds", "bytes"))
            against = [median(r[theirs][key] for r in rounds) for key in ("seconds", "bytes")]
            print(
                f"  {who:24} {seconds:8.1f} s ({seconds / against[0]:.3f})  {used / 2**20:8.0f} MiB "
                f"({used / against[1]:.3f})"
            )
    print("\nin brackets: the ratio to monai")


def overhead(options: argparse.Namespace, folder: Path) -> None:
    write_segment(folder / "small", LAYERS, 2000)
    write_segment(folder / "large", options.layers, 8000)
    rows = {
        f"{LAYERS}×2000×2000": fresh("shards:0", folder / "small", folder / "s"),
        f"eight shards of {options.layers}×8000×8000": fresh("shards:8", folder / "large", folder / "l"),
    }
    for name, row in rows.items():
        print(f"  {name:32} {told(row)}")
    first, second = (row["bytes"] for row in rows.values())
    print(f"  peak memory of the second is {second / first:.3f} of the first's")


def whole(options: argparse.Namespace, folder: Path) -> None:
    side = options.side or 8000
    write_segment(folder / "segment", options.layers, side)
    row = fresh("shards:0", folder / "segment", folder / "w")
    speed = side * side / 1e6 / row["seconds"]
    print(f"  {options.layers}×{side}×{side}: {row['seconds'] / 60:.1f} min, {speed:.3f} Mpx/s; {told(row)}")


def told(row: dict[str, Any]) -> str:
    beside = 100 * (1 - row["model"] / row["seconds"])
    return (
        f"{row['seconds']:7.1f} s, {beside:4.1f} % beside the model (waiting for layers {row['read']:.1f} s, for "
        f"the map {row['write']:.1f} s), {row['bytes'] / 2**20:.0f} MiB"
    )


def fresh(who: str, segment: Path, out: Path) -> dict[str, Any]:
    command = [sys.executable, *sys.argv, "--only", who, str(segment), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{who}: exit status {done.returncode} (killed for memory?)\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def write_segment(folder: Path, layers: int, side: int) -> None:
    (folder / "layers").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(layers):
        tifffile.imwrite(folder / "layers" / f"{number:02}.tif", random.integers(0, 256, (side, side), np.uint8))
    (folder / "fragment.yaml").write_text("direction: forward\nvoxel_um: 7.91\n")


def build(options: argparse.Namespace) -> tuple[InkModel, InputContract]:
    torch.manual_seed(0)
    model = create_model(options.model, depth=LAYERS, tile=options.tile)
    for parameter in model.parameters():  # a last layer of zeros answers the same everywhere
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    if any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        with torch.no_grad():  # statistics of the noise that the segment is made of
            for _ in range(20):
                model((torch.rand(2, 1, LAYERS, options.tile, options.tile) - 0.5) / 0.29)
    contract = InputContract(stored_dtype="uint8", depth=LAYERS, tile=options.tile, mean=0.5, std=0.29, voxel_um=7.91)
    return model.eval(), contract


def measure(options: argparse.Namespace, who: str, segment: str, out: str) -> dict[str, Any]:
    model, contract = build(options)
    fragment, device = open_fragment(segment), torch.device(options.device)
    model.to(device)
    import monai.inferers.utils  # noqa: F401
    import zarr  # noqa: F401

    with torch.inference_mode():  # every kernel's first call: neither this nor a library's loading is measured
        model(torch.zeros(1, 1, LAYERS, options.tile, options.tile, device=device))
    if who in (PEER, PEER_TRAINED):
        return by_monai(model, contract, fragment, Path(out + ".npy"), device, fused=who == PEER)
    return by_us(options, who, model, contract, fragment, Path(out), device)


def by_us(
    options: argparse.Namespace,
    who: str,
    model: InkModel,
    contract: InputContract,
    fragment: Fragment,
    out: Path,
    device: torch.device,
) -> dict[str, Any]:
    plan = Plan(
        fragment=fragment.name,
        path=str(fragment.path),
        stamp="",
        shape=fragment.shape,
        checkpoints=(),
        contract=contract,
        voxel_um=fragment.voxel_um,
        tile=options.tile,
        overlap=OVERLAP,
        blend="gaussian",
        batch_size=BATCH,
        precision="fp32" if who == OURS else resolve_precision("auto", device),
        dtype="float16" if who in (OURS, SHIPPED) else "uint8",
    )
    job = make_job(plan, fragment, [(model, contract, None)], device)
    inside = [0.0]
    right = job.predictor._one

    def timed(*arguments: Any) -> Tensor:
        began = time.perf_counter()
        answer = right(*arguments)
        if device.type == "cuda":
            torch.cuda.synchronize()
        inside[0] += time.perf_counter() - began
        return answer

    job.predictor._one = timed
    began, busy = time.perf_counter(), time.process_time()
    with PeakMemory(device) as peak:
        store = MapStore.begin(out, plan)
        first = int(who.partition(":")[2] or 0) or len(store.grid)
        timings = job.run(store, range(first))
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    said = {"bytes": peak.bytes, "model": inside[0], "read": timings.read, "write": timings.write}
    if not who.startswith("shards"):
        import zarr

        np.save(f"{out}.npy", np.asarray(zarr.open_array(out / "0", mode="r")[:], np.float32))
        said |= {"map": f"{out}.npy"}
    return {**said, "seconds": busy if not who.startswith("shards") and device.type == "cpu" else seconds}


def by_monai(
    model: InkModel, contract: InputContract, fragment: Fragment, out: Path, device: torch.device, *, fused: bool
) -> dict[str, Any]:
    from monai.inferers.utils import sliding_window_inference

    fuse = getattr(model, "fuse", None)
    if fused and fuse is not None:
        model = fuse(0, fold_norm=True).to(device)
    side = contract.tile
    window = torch.from_numpy(blend_window(side, "gaussian")).float()
    weights = (window[:, None] * window[None, :]).to(device)

    def probability(stack: Tensor) -> Tensor:  # (B, D, h, w): layers as channels, so that the window is 2D
        return ink_probability(model(stack[:, None]))[:, None]

    began, busy = time.perf_counter(), time.process_time()
    with PeakMemory(device) as peak, torch.inference_mode():
        height, width = fragment.shape
        volume = torch.from_numpy(contract.normalise(contract.read(fragment, 0, 0, height, width)))[None]
        found = sliding_window_inference(
            volume.to(device),
            (side, side),
            sw_batch_size=BATCH,
            predictor=probability,
            overlap=OVERLAP,
            mode="gaussian",
            roi_weight_map=weights,
        )
        assert isinstance(found, Tensor)
        np.save(out, found[0, 0].cpu().numpy())
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    return {"bytes": peak.bytes, "seconds": busy if device.type == "cpu" else seconds, "map": str(out)}


def processor() -> str:
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8") as file:
        return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()

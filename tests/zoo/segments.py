"""Small segments of noise, and a small model for them, that the tests of prediction share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
import torch

from data_recipes.fragment import Fragment, open_fragment
from data_recipes.tiles import InputContract
from zoo import create_model
from zoo.checkpoint import save_checkpoint
from zoo.models.base import InkModel
from zoo.predict.grid import Blend
from zoo.predict.plan import CheckpointRef, Plan

DEPTH, TILE = 5, 32
CONTRACT = InputContract(stored_dtype="uint8", depth=DEPTH, tile=TILE, mean=0.5, std=0.25, voxel_um=7.91)
KNOWN = f"center_layer: {DEPTH // 2}\ndirection: forward\nvoxel_um: 7.91\nto_uint8: none\n"


def write_segment(
    folder: Path, height: int, width: int, *, depth: int = DEPTH, known: str = KNOWN, dtype: type = np.uint8
) -> Fragment:
    """Layers of noise as TIFF, and a fragment.yaml that says `known`."""
    (folder / "layers").mkdir(parents=True)
    top = int(np.iinfo(dtype).max) + 1
    layers = np.random.default_rng(0).integers(0, top, (depth, height, width), dtype)
    for number, layer in enumerate(layers):
        tifffile.imwrite(folder / "layers" / f"{number:02}.tif", layer)
    (folder / "fragment.yaml").write_text(known)
    return open_fragment(folder)


def write_mask(fragment: Fragment, mask: np.ndarray) -> Fragment:
    """The segment with that papyrus mask beside its layers."""
    tifffile.imwrite(fragment.path / "mask.tif", mask.astype(np.uint8) * 255)
    return open_fragment(fragment.path)


def write_checkpoint(path: Path, *, seed: int = 0, contract: InputContract = CONTRACT, **options: object) -> Path:
    """A small untrained network that answers differently everywhere."""
    torch.manual_seed(seed)
    model = create_model("depthcnn_tiny", depth=contract.depth, tile=contract.tile, width=4)
    wake(model)
    config = {"train": {"degrade": None}, "train_rects": {"somewhere": [[0, 8, 0, 8]]}, **options}
    return save_checkpoint(path, model, name="depthcnn_tiny", options={"width": 4}, contract=contract, config=config)


def wake(model: InkModel, tasks: int = 1) -> None:
    """Make a fresh model answer differently everywhere: zeros such as its last layer's weights and its gates get
    values, BatchNorm the statistics of noise."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter)
    model.train()
    with torch.no_grad():
        for _ in range(30):
            noise = (torch.rand(4, 1, model.depth, model.tile, model.tile) - 0.5) * 4
            model(noise, torch.arange(4) % tasks if tasks > 1 else None)
    model.eval()


def plan_of(fragment: Fragment, *, shard: int = 64, chunk: int = 32, blend: Blend = "hann", **changed: object) -> Plan:
    """A plan for a segment, with no checkpoint behind it."""
    said = {"overlap": 0.5, "dtype": "float16", "batch_size": 5, **changed}
    return Plan(
        fragment=fragment.name,
        path=str(fragment.path),
        stamp="0",
        shape=fragment.shape,
        checkpoints=(CheckpointRef(path="x.safetensors", sha256="0" * 64, model="fake"),),
        contract=CONTRACT,
        voxel_um=fragment.voxel_um,
        tile=TILE,
        shard=shard,
        chunk=chunk,
        blend=blend,
        **said,  # pyright: ignore[reportArgumentType]
    )


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder and its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

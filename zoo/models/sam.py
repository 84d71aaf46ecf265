"""The variants of SAM for ink, each with its numbers; the network itself is in sam_network.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zoo.models.sam_cards import CARDS
from zoo.models.sam_checkpoint import load_official
from zoo.models.sam_compression import COMPRESSIONS, VolumeStem
from zoo.models.sam_network import SamInk, SamSize
from zoo.pretrained import official_tensors

SIZES = {
    "sam_tiny": SamSize(
        width=128,
        blocks=4,
        heads=4,
        global_blocks=(0, 1, 2, 3),
        window=0,
        patch=2,
        embedding=128,
        decoder_heads=4,
        decoder_mlp=256,
        multimask=0,
    ),
    "sam_vit_b": SamSize(width=768, blocks=12, heads=12, global_blocks=(2, 5, 8, 11)),
    "sam_vit_l": SamSize(width=1024, blocks=24, heads=16, global_blocks=(5, 11, 17, 23)),
    "sam_vit_h": SamSize(width=1280, blocks=32, heads=16, global_blocks=(7, 15, 23, 31)),
}


def build_sam_tiny(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    width: int = 16,
    tuning: str = "full",
    lora_rank: int = 4,
    lora_blocks: Sequence[int] | None = None,
    lora_decoder: bool = True,
    drop_path: float = 0.0,
    multimask: bool = False,
) -> SamInk:
    """The variant that trains from scratch in minutes on two CPU cores. Options: on its card.

    Raises:
        ValueError: an option that is not possible.
    """
    if width < 1:
        raise ValueError(f"sam_tiny: width {width} is not possible; 1 or more (16 by default)")
    model = SamInk(
        CARDS["sam_tiny"],
        SIZES["sam_tiny"],
        lambda depth, embedding: VolumeStem(depth, 16, width),
        depth=depth,
        tile=tile,
        classes=classes,
        supervise_compression=True,
        drop_path=drop_path,
        multimask=multimask,
    )
    model.tune(tuning, rank=lora_rank, blocks=lora_blocks, decoder=lora_decoder)
    return model


def _build_sam_vit(
    name: str,
    *,
    depth: int,
    tile: int,
    classes: int,
    compression: str,
    tuning: str,
    lora_rank: int,
    lora_blocks: Sequence[int] | None,
    lora_decoder: bool,
    drop_path: float,
    multimask: bool,
    checkpoint: str | Path | None,
    pretrained: bool | str,
) -> SamInk:
    """The variant `name` in its published size; what the options mean is on its card.

    Raises:
        ValueError: an option that is not possible, a checkpoint that is not the official one.
        FileNotFoundError: official weights are asked for and neither there nor to be fetched.
    """
    if compression not in COMPRESSIONS:
        raise ValueError(f"{name}: compression {compression!r} is not possible; there are {', '.join(COMPRESSIONS)}")
    tensors = official_tensors(name, checkpoint=checkpoint, pretrained=pretrained)
    model = SamInk(
        CARDS[name],
        SIZES[name],
        COMPRESSIONS[compression],
        depth=depth,
        tile=tile,
        classes=classes,
        drop_path=drop_path,
        multimask=multimask,
    )
    if tensors is not None:
        load_official(model, tensors)
    model.tune(tuning, rank=lora_rank, blocks=lora_blocks, decoder=lora_decoder)
    return model


def build_sam_vit_b(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    compression: str = "conv",
    tuning: str = "full",
    lora_rank: int = 4,
    lora_blocks: Sequence[int] | None = None,
    lora_decoder: bool = True,
    drop_path: float = 0.0,
    multimask: bool = False,
    checkpoint: str | Path | None = None,
    pretrained: bool | str = False,
) -> SamInk:
    """SAM on ViT-B: 12 blocks of width 768. Options: on its card; errors: `_build_sam_vit`."""
    return _build_sam_vit(
        "sam_vit_b",
        depth=depth,
        tile=tile,
        classes=classes,
        compression=compression,
        tuning=tuning,
        lora_rank=lora_rank,
        lora_blocks=lora_blocks,
        lora_decoder=lora_decoder,
        drop_path=drop_path,
        multimask=multimask,
        checkpoint=checkpoint,
        pretrained=pretrained,
    )


def build_sam_vit_l(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    compression: str = "conv",
    tuning: str = "full",
    lora_rank: int = 4,
    lora_blocks: Sequence[int] | None = None,
    lora_decoder: bool = True,
    drop_path: float = 0.0,
    multimask: bool = False,
    checkpoint: str | Path | None = None,
    pretrained: bool | str = False,
) -> SamInk:
    """SAM on ViT-L: 24 blocks of width 1024. Options: on its card; errors: `_build_sam_vit`."""
    return _build_sam_vit(
        "sam_vit_l",
        depth=depth,
        tile=tile,
        classes=classes,
        compression=compression,
        tuning=tuning,
        lora_rank=lora_rank,
        lora_blocks=lora_blocks,
        lora_decoder=lora_decoder,
        drop_path=drop_path,
        multimask=multimask,
        checkpoint=checkpoint,
        pretrained=pretrained,
    )


def build_sam_vit_h(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    compression: str = "conv",
    tuning: str = "full",
    lora_rank: int = 4,
    lora_blocks: Sequence[int] | None = None,
    lora_decoder: bool = True,
    drop_path: float = 0.0,
    multimask: bool = False,
    checkpoint: str | Path | None = None,
    pretrained: bool | str = False,
) -> SamInk:
    """SAM on ViT-H: 32 blocks of width 1280. Options: on its card; errors: `_build_sam_vit`."""
    return _build_sam_vit(
        "sam_vit_h",
        depth=depth,
        tile=tile,
        classes=classes,
        compression=compression,
        tuning=tuning,
        lora_rank=lora_rank,
        lora_blocks=lora_blocks,
        lora_decoder=lora_decoder,
        drop_path=drop_path,
        multimask=multimask,
        checkpoint=checkpoint,
        pretrained=pretrained,
    )

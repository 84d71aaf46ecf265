"""ELU-Net for ink: an efficient, lightweight U-Net with deep skips (the name is not of the activation).

    volume (B, 1, D, H, W) -> layers as channels, or a reduction, or a 3D stem -> encoder of L levels, pooled by two
      -> decoder blocks L-1 … 1. Block k reads: the decoder block below it (the deepest encoder level at first), every
         encoder level between it and the deepest, and its own; each up-sampled to its size and convolved to its width
      -> 1×1 head

The enhanced variants are described in enhanced.py.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from zoo.card import ModelCard
from zoo.models.base import Heads, InkModel
from zoo.models.depth import REDUCTIONS
from zoo.models.enhanced import EncoderLevel, Enhancement, LayersIn, UpConv, conv_pair, enhanced_card
from zoo.models.layers import run_block


class DecoderBlock(nn.Module):
    """Maps of deeper levels and of its own, deepest first -> (B, width, h, w)."""

    def __init__(self, arrows: list[tuple[int, int]], width: int, *, upsampling: str, gated: bool):
        """`arrows`: channels and factor of up-sampling of each."""
        super().__init__()
        self.arrows = nn.ModuleList(UpConv(channels, width, factor, upsampling) for channels, factor in arrows)
        self.block = conv_pair(width * len(arrows), width, gated=gated)

    def forward(self, *sources: Tensor) -> Tensor:
        return self.block(torch.cat([a(source) for a, source in zip(self.arrows, sources, strict=True)], dim=1))


class ELUNet(InkModel):
    """Args: as on the card; `enhancement` None is the published network."""

    can_checkpoint = True

    def __init__(
        self,
        card: ModelCard,
        *,
        depth: int,
        tile: int,
        classes: int,
        width: int,
        levels: int,
        upsampling: str,
        reduction: str,
        stem: int,
        enhancement: Enhancement | None = None,
    ):
        if width < 1 or levels < 2:
            raise ValueError(f"{card.name}: width {width}, levels {levels} are not possible; 1 and 2 or more")
        stride = 4 if stem else 1
        step = stride * 2 ** (levels - 1)
        # a deepest map of one pixel would leave BatchNorm little but the sign of each tile
        card = replace(card, multiple=step, min_tile=2 * step, out_stride=stride)
        super().__init__(card, depth=depth, tile=tile, classes=classes)
        self.layers_in = LayersIn(depth, reduction=reduction, stem=stem, width=width)
        widths = [width * 2**level for level in range(levels)]
        last = levels - 1
        self.encoder = nn.ModuleList(
            EncoderLevel(
                self.layers_in.out_channels if level == 0 else widths[level - 1],
                channels,
                pools=int(level < last),
                deep=level >= last - 1,
                enhancement=enhancement,
            )
            for level, channels in enumerate(widths)
        )
        self.decoder = nn.ModuleList(  # finest first
            DecoderBlock(
                [
                    (widths[index + 1], 2),
                    *((widths[level], 2 ** (level - index)) for level in reversed(range(index, last))),
                ],
                widths[index],
                upsampling=upsampling,
                gated=enhancement is not None and enhancement.glu,
            )
            for index in range(last)
        )
        self.output = nn.Conv2d(width, classes, 1)
        self.grad_checkpointing = False

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        """(B, 1, D, H, W) -> one map of logits."""
        image = run_block(self.layers_in, volume, again=self.grad_checkpointing)
        encoded: list[Tensor] = []
        for level in self.encoder:
            features, *pooled = run_block(level, image, again=self.grad_checkpointing)
            encoded.append(features)
            image = pooled[0] if pooled else features
        last = len(encoded) - 1
        for index in reversed(range(last)):
            skips = [encoded[level] for level in reversed(range(index, last))]
            image = run_block(self.decoder[index], image, *skips, again=self.grad_checkpointing)
        return Heads([self.output(image)])

    def shard_units(self) -> list[nn.Module]:
        return [self.layers_in, *self.encoder, *self.decoder]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable


_COST_TINY = "1.05 times the operations of the plain network: the 3D stem, which they leave alone, has most of them"
_COST_GLU_TINY = "1.07 times the operations of the plain network: the 3D stem, which they leave alone, has most of them"
_OPTIONS = {
    "width": "channels of the first level; each deeper one has twice as many",
    "levels": "levels of the encoder; sides must be multiples of 2 to the power of one less",
    "upsampling": "bilinear (the closest reading of the paper), nearest, or transposed (learnt, 2×2 at stride 2 as "
    "often as it takes)",
    "reduction": "how layers come in: channels (they are the channels of the first convolution), or a reduction of Z "
    f"to 2D: {', '.join(REDUCTIONS)}",
    "stem": "channels of a 3D stem in front, which takes the plane to 1/4 and Z to 1/2 (sides must then be multiples "
    "of four times as much); 0 for none",
}
_TINY_DIFFERS = (
    "three levels of 16, 32 and 64 channels behind a 3D stem that takes the plane to 1/4: a first layer in 2D learns "
    "each depth apart, and does not follow a surface that undulates",
)
_COST = (
    "a training step takes 1.04 times as long as the plain network's and 1.09 times the memory; with "
    'kernel="depthwise" 1.00 and 1.10 (CPU, two tiles of 16 layers and 192 px: benchmarks/results/enhanced.txt)'
)
_COST_GLU = (
    "a training step takes 1.13 times as long as the plain network's and 1.28 times the memory; with "
    'kernel="depthwise" 1.12 and 1.29 (CPU, two tiles of 16 layers and 192 px: benchmarks/results/enhanced.txt)'
)


def _card(name: str, summary: str, *, tiny: bool) -> ModelCard:
    return ModelCard(
        name=name,
        family="elunet",
        summary=summary,
        paper="Deng et al.: ELU-Net: An Efficient and Lightweight U-Net for Medical Image Segmentation, "
        "IEEE Access 2022",
        url="https://doi.org/10.1109/ACCESS.2022.3163711",
        licence="Apache-2.0 (written from the papers)",
        depth=16 if tiny else 32,
        tile=96 if tiny else 256,
        multiple=16,
        min_tile=32,
        out_stride=4 if tiny else 1,
        differs=("layers are the channels of the image, or are reduced to it", *(_TINY_DIFFERS if tiny else ())),
        options=_OPTIONS,
    )


def _enhanced_card(name: str, summary: str, *, tiny: bool, glu: bool, cost: str) -> ModelCard:
    return enhanced_card(_card(name, summary, tiny=tiny), glu=glu, cost=cost)


CARDS = {
    card.name: card
    for card in (
        _card("elunet_tiny", "deep skips from every encoder level; three levels behind a strided 3D stem", tiny=True),
        _card(
            "elunet_base",
            "deep skips from every encoder level; five levels of 8 to 128 channels, as published",
            tiny=False,
        ),
        _enhanced_card(
            "elunet_enhanced",
            "ELU-Net whose encoder has 7×7 and dilated convolutions and blur pooling",
            tiny=False,
            glu=False,
            cost=_COST,
        ),
        _enhanced_card(
            "elunet_enhanced_glu",
            "the enhanced ELU-Net with gated linear units in encoder and decoder",
            tiny=False,
            glu=True,
            cost=_COST_GLU,
        ),
        _enhanced_card(
            "elunet_enhanced_tiny",
            "the enhanced ELU-Net, three levels behind a strided 3D stem",
            tiny=True,
            glu=False,
            cost=_COST_TINY,
        ),
        _enhanced_card(
            "elunet_enhanced_glu_tiny",
            "the enhanced ELU-Net with gated linear units, three levels",
            tiny=True,
            glu=True,
            cost=_COST_GLU_TINY,
        ),
    )
}


def build_elunet_tiny(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    width: int = 16,
    levels: int = 3,
    upsampling: str = "bilinear",
    reduction: str = "zconv",
    stem: int = 16,
) -> ELUNet:
    """The variant for two CPU cores; the head is at a quarter of the resolution."""
    return ELUNet(
        CARDS["elunet_tiny"],
        depth=depth,
        tile=tile,
        classes=classes,
        width=width,
        levels=levels,
        upsampling=upsampling,
        reduction=reduction,
        stem=stem,
    )


def build_elunet_base(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    width: int = 8,
    levels: int = 5,
    upsampling: str = "bilinear",
    reduction: str = "channels",
    stem: int = 0,
) -> ELUNet:
    """The published network: 646,729 parameters for three layers and one class; 846,121 with "transposed"."""
    return ELUNet(
        CARDS["elunet_base"],
        depth=depth,
        tile=tile,
        classes=classes,
        width=width,
        levels=levels,
        upsampling=upsampling,
        reduction=reduction,
        stem=stem,
    )


def build_elunet_enhanced(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    width: int = 8,
    levels: int = 5,
    upsampling: str = "bilinear",
    reduction: str = "channels",
    stem: int = 0,
    kernel: str = "dense",
) -> ELUNet:
    """The enhanced ELU-Net, in the published size."""
    return ELUNet(
        CARDS["elunet_enhanced"],
        depth=depth,
        tile=tile,
        classes=classes,
        width=width,
        levels=levels,
        upsampling=upsampling,
        reduction=reduction,
        stem=stem,
        enhancement=Enhancement(kernel=kernel, glu=False),
    )


def build_elunet_enhanced_glu(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    width: int = 8,
    levels: int = 5,
    upsampling: str = "bilinear",
    reduction: str = "channels",
    stem: int = 0,
    kernel: str = "dense",
) -> ELUNet:
    """The enhanced ELU-Net with gated linear units, in the published size."""
    return ELUNet(
        CARDS["elunet_enhanced_glu"],
        depth=depth,
        tile=tile,
        classes=classes,
        width=width,
        levels=levels,
        upsampling=upsampling,
        reduction=reduction,
        stem=stem,
        enhancement=Enhancement(kernel=kernel, glu=True),
    )


def build_elunet_enhanced_tiny(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    width: int = 16,
    levels: int = 3,
    upsampling: str = "bilinear",
    reduction: str = "zconv",
    stem: int = 16,
    kernel: str = "dense",
) -> ELUNet:
    """The enhanced ELU-Net, for two CPU cores; the head is at a quarter of the resolution."""
    return ELUNet(
        CARDS["elunet_enhanced_tiny"],
        depth=depth,
        tile=tile,
        classes=classes,
        width=width,
        levels=levels,
        upsampling=upsampling,
        reduction=reduction,
        stem=stem,
        enhancement=Enhancement(kernel=kernel, glu=False),
    )


def build_elunet_enhanced_glu_tiny(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    width: int = 16,
    levels: int = 3,
    upsampling: str = "bilinear",
    reduction: str = "zconv",
    stem: int = 16,
    kernel: str = "dense",
) -> ELUNet:
    """The enhanced ELU-Net with gated linear units, for two CPU cores; the head is at a quarter of the resolution."""
    return ELUNet(
        CARDS["elunet_enhanced_glu_tiny"],
        depth=depth,
        tile=tile,
        classes=classes,
        width=width,
        levels=levels,
        upsampling=upsampling,
        reduction=reduction,
        stem=stem,
        enhancement=Enhancement(kernel=kernel, glu=True),
    )

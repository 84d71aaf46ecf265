"""U-Net3+ for ink: every decoder node reads every scale, shallower ones of the encoder and deeper ones of the decoder.

    volume (B, 1, D, H, W) -> layers as channels, or a reduction, or a 3D stem -> encoder of L levels, pooled by two
      -> decoder nodes L-1 … 1: one branch a level, each brought to the node's size and to `filters[0]` channels,
         concatenated shallowest first, fused by a convolution -> 3×3 head on the finest node, or on every level

The branches that up-sample are computed in another order than written in the paper, with the same result, from which
most of the arithmetic and of the memory goes away (`conv_of_upsampled`). The enhanced variants are described in
enhanced.py, the cards lie in unet3plus_cards.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.card import ModelCard
from zoo.models.base import Heads, InkModel
from zoo.models.enhanced import EncoderLevel, Enhancement, LayersIn, UpConv, conv_unit
from zoo.models.layers import run_block
from zoo.models.unet3plus_cards import CARDS

FILTERS = (64, 128, 256, 512, 1024)
"""Channels of the encoder's levels in the paper."""
TINY_FILTERS = (16, 32, 64)


class DecoderNode(nn.Module):
    """One map of each level -> (B, L·filters[0], h, w) at the size of level `index`."""

    def __init__(self, sources: Sequence[int], index: int, branch: int, *, upsampling: str, gated: bool):
        super().__init__()
        # what lies above comes pooled to size, what lies below is up-sampled
        self.branches = nn.ModuleList(
            conv_unit(channels, branch, conv=UpConv(channels, branch, 2 ** max(0, level - index), upsampling))
            for level, channels in enumerate(sources)
        )
        width = branch * len(sources)
        self.fuse = conv_unit(width, width, gated=gated)

    def forward(self, *sources: Tensor) -> Tensor:
        return self.fuse(torch.cat([b(source) for b, source in zip(self.branches, sources, strict=True)], dim=1))


class Presence(nn.Module):
    """Is there ink in the tile? (B, C, h, w) of the deepest level -> (B, 2) logits of no ink and ink."""

    def __init__(self, channels: int):
        super().__init__()
        self.classify = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(channels, 2, 1))

    def forward(self, deepest: Tensor) -> Tensor:
        # amax is an adaptive max-pool to one cell, whose gradient is deterministic on a GPU as well
        return self.classify(deepest).amax(dim=(2, 3))


def gate(logits: Tensor, presence: Tensor) -> Tensor:
    """Logits (B, C, h, w) of maps whose ink is multiplied by the probability that there is any; presence (B, 2).

    The probability is multiplied, not the logit: a logit times zero would say one half. With g the probability of ink
    in the tile, ink classes get p' = g·p and the background the rest, 1 - g·(1 - p₀). As logits, exactly: ink
    x + log g; background log(exp x₀ + (1 - g)·Σ exp x over the ink classes). With one class the background's logit is
    0, and the answer is ink minus background. Open (g = 1) leaves the logits as they are; closed says no ink.
    """
    logits = logits.float()
    odds = (presence[:, 1] - presence[:, 0]).float()[:, None, None, None]
    ink = logits if logits.shape[1] == 1 else logits[:, 1:]
    nothing = torch.zeros_like(logits) if logits.shape[1] == 1 else logits[:, :1]
    background = torch.logaddexp(nothing, ink.logsumexp(dim=1, keepdim=True) + F.logsigmoid(-odds))
    ink = ink + F.logsigmoid(odds)
    return ink - background if logits.shape[1] == 1 else torch.cat([background, ink], dim=1)


class UNet3Plus(InkModel):
    """Args: as on the card; `enhancement` None is the published network."""

    can_checkpoint = True

    def __init__(
        self,
        card: ModelCard,
        *,
        depth: int,
        tile: int,
        classes: int,
        filters: Sequence[int],
        deep_supervision: bool,
        cgm: bool,
        upsampling: str,
        reduction: str,
        stem: int,
        enhancement: Enhancement | None = None,
    ):
        if len(filters) < 2 or min(filters) < 1:
            raise ValueError(
                f"{card.name}: filters {tuple(filters)} are not possible; two levels or more, each above 0"
            )
        stride = 4 if stem else 1
        step = stride * 2 ** (len(filters) - 1)
        # a deepest map of one pixel would leave BatchNorm little but the sign of each tile
        card = replace(card, multiple=step, min_tile=2 * step, out_stride=stride)
        super().__init__(card, depth=depth, tile=tile, classes=classes)
        self.layers_in = LayersIn(depth, reduction=reduction, stem=stem, width=filters[0])
        last = len(filters) - 1
        self.encoder = nn.ModuleList(
            EncoderLevel(
                self.layers_in.out_channels if level == 0 else filters[level - 1],
                channels,
                # down to the next level, and to every decoder node that lies deeper
                pools=0 if level == last else max(1, last - 1 - level),
                deep=level >= last - 1,
                enhancement=enhancement,
            )
            for level, channels in enumerate(filters)
        )
        branch, node = filters[0], filters[0] * len(filters)
        self.decoder = nn.ModuleList(  # finest first
            DecoderNode(
                [*filters[: index + 1], *[node] * (last - 1 - index), filters[last]],
                index,
                branch,
                upsampling=upsampling,
                gated=enhancement is not None and enhancement.glu,
            )
            for index in range(last)
        )
        inputs = [*[node] * last, filters[last]] if deep_supervision else [node]
        self.outputs = nn.ModuleList(nn.Conv2d(channels, classes, 3, padding=1) for channels in inputs)
        self.presence = Presence(filters[last]) if cgm else None
        self.grad_checkpointing = False

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        """(B, 1, D, H, W) -> logits, one map, or with deep supervision one a level, each at its own resolution.

        With the classification-guided module all of them are gated, and aux has `presence` (B, 2).
        """
        image = run_block(self.layers_in, volume, again=self.grad_checkpointing)
        pyramid: list[list[Tensor]] = []
        for level in self.encoder:
            pyramid.append(run_block(level, image, again=self.grad_checkpointing))
            image = pyramid[-1][min(1, len(pyramid[-1]) - 1)]
        last = len(pyramid) - 1
        decoded = {last: image}
        for index in reversed(range(last)):
            above = [pyramid[level][index - level] for level in range(index + 1)]
            below = [decoded[level] for level in range(index + 1, last + 1)]
            decoded[index] = run_block(self.decoder[index], *above, *below, again=self.grad_checkpointing)
        logits = [output(decoded[level]) for level, output in enumerate(self.outputs)]
        if self.presence is None:
            return Heads(logits)
        presence = self.presence(image)
        return Heads([gate(one, presence) for one in logits], {"presence": presence})

    def shard_units(self) -> list[nn.Module]:
        return [self.layers_in, *self.encoder, *self.decoder]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable


def build_unet3plus_tiny(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    filters: Sequence[int] = TINY_FILTERS,
    deep_supervision: bool = True,
    cgm: bool = False,
    upsampling: str = "bilinear",
    reduction: str = "zconv",
    stem: int = 16,
) -> UNet3Plus:
    """The variant for two CPU cores; the head is at a quarter of the resolution."""
    return UNet3Plus(
        CARDS["unet3plus_tiny"],
        depth=depth,
        tile=tile,
        classes=classes,
        filters=filters,
        deep_supervision=deep_supervision,
        cgm=cgm,
        upsampling=upsampling,
        reduction=reduction,
        stem=stem,
    )


def build_unet3plus_base(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    filters: Sequence[int] = FILTERS,
    deep_supervision: bool = False,
    cgm: bool = False,
    upsampling: str = "bilinear",
    reduction: str = "channels",
    stem: int = 0,
) -> UNet3Plus:
    """The published network: 26,971,777 parameters for three layers and one class."""
    return UNet3Plus(
        CARDS["unet3plus_base"],
        depth=depth,
        tile=tile,
        classes=classes,
        filters=filters,
        deep_supervision=deep_supervision,
        cgm=cgm,
        upsampling=upsampling,
        reduction=reduction,
        stem=stem,
    )


def build_unet3plus_enhanced(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    filters: Sequence[int] = FILTERS,
    deep_supervision: bool = False,
    cgm: bool = False,
    upsampling: str = "bilinear",
    reduction: str = "channels",
    stem: int = 0,
    kernel: str = "dense",
) -> UNet3Plus:
    """The enhanced U-Net3+, in the published size."""
    return UNet3Plus(
        CARDS["unet3plus_enhanced"],
        depth=depth,
        tile=tile,
        classes=classes,
        filters=filters,
        deep_supervision=deep_supervision,
        cgm=cgm,
        upsampling=upsampling,
        reduction=reduction,
        stem=stem,
        enhancement=Enhancement(kernel=kernel, glu=False),
    )


def build_unet3plus_enhanced_glu(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    filters: Sequence[int] = FILTERS,
    deep_supervision: bool = False,
    cgm: bool = False,
    upsampling: str = "bilinear",
    reduction: str = "channels",
    stem: int = 0,
    kernel: str = "dense",
) -> UNet3Plus:
    """The enhanced U-Net3+ with gated linear units, in the published size."""
    return UNet3Plus(
        CARDS["unet3plus_enhanced_glu"],
        depth=depth,
        tile=tile,
        classes=classes,
        filters=filters,
        deep_supervision=deep_supervision,
        cgm=cgm,
        upsampling=upsampling,
        reduction=reduction,
        stem=stem,
        enhancement=Enhancement(kernel=kernel, glu=True),
    )


def build_unet3plus_enhanced_tiny(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    filters: Sequence[int] = TINY_FILTERS,
    deep_supervision: bool = True,
    cgm: bool = False,
    upsampling: str = "bilinear",
    reduction: str = "zconv",
    stem: int = 16,
    kernel: str = "dense",
) -> UNet3Plus:
    """The enhanced U-Net3+, for two CPU cores; the head is at a quarter of the resolution."""
    return UNet3Plus(
        CARDS["unet3plus_enhanced_tiny"],
        depth=depth,
        tile=tile,
        classes=classes,
        filters=filters,
        deep_supervision=deep_supervision,
        cgm=cgm,
        upsampling=upsampling,
        reduction=reduction,
        stem=stem,
        enhancement=Enhancement(kernel=kernel, glu=False),
    )


def build_unet3plus_enhanced_glu_tiny(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    filters: Sequence[int] = TINY_FILTERS,
    deep_supervision: bool = True,
    cgm: bool = False,
    upsampling: str = "bilinear",
    reduction: str = "zconv",
    stem: int = 16,
    kernel: str = "dense",
) -> UNet3Plus:
    """The enhanced U-Net3+ with gated linear units, for two CPU cores; the head is at a quarter of the resolution."""
    return UNet3Plus(
        CARDS["unet3plus_enhanced_glu_tiny"],
        depth=depth,
        tile=tile,
        classes=classes,
        filters=filters,
        deep_supervision=deep_supervision,
        cgm=cgm,
        upsampling=upsampling,
        reduction=reduction,
        stem=stem,
        enhancement=Enhancement(kernel=kernel, glu=True),
    )

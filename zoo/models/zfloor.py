"""The floors that know no depth: Z is projected to one plane by a fixed rule, and one 2D CNN reads the plane.

A 3D model has to beat these to show that it uses depth at all, so they get a fair chance: the same plan of strides and
blocks as `depthcnn` in 2D, as many parameters, the same receptive field at 1/16, and a finer head at 1/4 besides.
`zbest` picks the one layer that serves best, which is more than most published 2D baselines do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.card import ModelCard
from zoo.models.base import Heads, InkModel
from zoo.models.depth import ZMax, ZMean, ZStd

# How many nats one unit of `LayerChoice.scores` is worth. An optimiser moves a parameter by about its learning rate a
# step; with this a choice is made within a few hundred steps at 1e-3 instead of never.
_SCORE_SCALE = 20.0


class LayerChoice(nn.Module):
    """(B, 1, D, H, W) -> (B, 1, H, W): one layer, the same everywhere once trained; the network never sees another.

    While training each sample draws its layer from the softmax of the scores (Gumbel-max), and the scores learn by the
    straight-through gradient: the loss's gradient on the plane times what each layer would have shown there (Jang et
    al., ICLR 2017). In evaluation the layer with the highest score is taken. Untrained, that is the centre layer.
    """

    def __init__(self, depth: int):
        super().__init__()
        scores = torch.zeros(depth)
        scores[depth // 2] = 0.5 / _SCORE_SCALE
        self.scores = nn.Parameter(scores)

    @property
    def layer(self) -> int:
        """Index of the layer that evaluation reads."""
        return int(self.scores.argmax())

    def forward(self, volume: Tensor) -> Tensor:
        if not self.training:
            return volume.index_select(2, self.scores.argmax().view(1)).squeeze(2)
        # Scaled in value only: a gradient twenty times as large would take over the trainer's clipping by norm.
        logits = (_SCORE_SCALE * self.scores).detach() + self.scores - self.scores.detach()
        choice = F.gumbel_softmax(logits.float().expand(volume.shape[0], -1), hard=True, dim=1)
        # Product and sum rather than a matrix product, which autocast would round.
        return (choice[:, None, :, None, None] * volume).sum(dim=2)


def _projection(name: str, depth: int) -> nn.Module:
    fixed = {"zmean": ZMean, "zmax": ZMax, "zstd": ZStd}
    return fixed[name](1) if name in fixed else LayerChoice(depth)


_OPTIONS = {"width": "channels of the first block; the last one has eight times as many"}


def _card(name: str, summary: str) -> ModelCard:
    return ModelCard(
        name=name,
        family="zfloor",
        summary=summary,
        depth=13,
        tile=96,
        multiple=16,
        min_tile=32,
        out_stride=4,
        options=_OPTIONS,
        uses_depth=False,
    )


CARDS = {
    card.name: card
    for card in (
        _card("zmean", "floor: 2D CNN on the mean over Z"),
        _card("zmax", "floor: 2D CNN on the maximum over Z"),
        _card("zstd", "floor: 2D CNN on the standard deviation over Z"),
        _card("zbest", "floor: 2D CNN on the single layer that serves best, chosen in training"),
    )
}


def conv_block_2d(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, BatchNorm, GELU: (B, inputs, H, W) -> (B, outputs, H, W) / stride, rounded up."""
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.GELU())


class ZFloor(InkModel):
    """A projection over Z, then a 2D CNN with heads at 1/4 and 1/16."""

    def __init__(self, card: ModelCard, *, depth: int, tile: int, classes: int = 1, width: int = 24):
        super().__init__(card, depth=depth, tile=tile, classes=classes)
        if width < 1:
            raise ValueError(f"{card.name}: width {width} is not possible; 1 or more (24 by default)")
        self.project = _projection(card.name, depth)
        # A deviation or a maximum has another range than the intensities it comes from.
        self.standardise = nn.BatchNorm2d(1, affine=False)
        self.quarter = nn.Sequential(
            conv_block_2d(1, width, 2), conv_block_2d(width, 2 * width, 2), conv_block_2d(2 * width, 2 * width)
        )
        self.eighth = nn.Sequential(conv_block_2d(2 * width, 4 * width, 2), conv_block_2d(4 * width, 4 * width))
        self.sixteenth = nn.Sequential(
            conv_block_2d(4 * width, 8 * width, 2),
            nn.Dropout(0.2),
            conv_block_2d(8 * width, 8 * width),
            nn.Dropout(0.3),
        )
        self.coarse = nn.Conv2d(8 * width, classes, 1)
        # Top-down: each level is brought to one width, up-sampled and added (feature pyramid, Lin et al., CVPR 2017).
        self.lateral = nn.ModuleList(nn.Conv2d(n * width, 2 * width, 1) for n in (2, 4, 8))
        self.fine = nn.Sequential(conv_block_2d(2 * width, 2 * width), nn.Conv2d(2 * width, classes, 1))

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        """(B, 1, D, H, W) -> logits [(B, C, H/4, W/4), (B, C, H/16, W/16)]."""
        quarter = self.quarter(self.standardise(self.project(volume)))
        eighth = self.eighth(quarter)
        sixteenth = self.sixteenth(eighth)
        merged = self.lateral[2](sixteenth)
        for lateral, level in ((self.lateral[1], eighth), (self.lateral[0], quarter)):
            merged = lateral(level) + F.interpolate(merged, scale_factor=2.0, mode="bilinear", align_corners=False)
        return Heads([self.fine(merged), self.coarse(sixteenth)])


def build_zmean(*, depth: int, tile: int, classes: int = 1, width: int = 24) -> ZFloor:
    """Floor on the mean over Z."""
    return ZFloor(CARDS["zmean"], depth=depth, tile=tile, classes=classes, width=width)


def build_zmax(*, depth: int, tile: int, classes: int = 1, width: int = 24) -> ZFloor:
    """Floor on the maximum over Z."""
    return ZFloor(CARDS["zmax"], depth=depth, tile=tile, classes=classes, width=width)


def build_zstd(*, depth: int, tile: int, classes: int = 1, width: int = 24) -> ZFloor:
    """Floor on the standard deviation over Z."""
    return ZFloor(CARDS["zstd"], depth=depth, tile=tile, classes=classes, width=width)


def build_zbest(*, depth: int, tile: int, classes: int = 1, width: int = 24) -> ZFloor:
    """Floor on the single best layer."""
    return ZFloor(CARDS["zbest"], depth=depth, tile=tile, classes=classes, width=width)

"""A small, fast 3D CNN that keeps Z until the end and then pools it with attention.

Strides fall on the plane first and on Z last, so the order of the layers survives to the widest features; a softmax
over Z at each place picks the layers that matter. The head is 2D at 1/16: about the width of a pen stroke in scroll
scans, which forgives labels that are drawn a few pixels off. The receptive field is 87 px in the plane: it sees strokes
of letters, not lines of writing.
"""

from __future__ import annotations

from torch import Tensor, nn

from zoo.card import ModelCard
from zoo.models.base import Heads, InkModel
from zoo.models.depth import ZAttention
from zoo.models.layers import conv_block_3d

_OPTIONS = {
    "width": "channels of the first block; the last one has eight times as many",
    "dropout": "(after the pooling over Z, before the last layer)",
}


def _card(name: str, summary: str) -> ModelCard:
    return ModelCard(
        name=name,
        family="depthcnn",
        summary=summary,
        depth=13,
        tile=96,
        multiple=16,
        min_tile=16,
        out_stride=16,
        options=_OPTIONS,
    )


CARDS = {
    card.name: card
    for card in (
        _card("depthcnn_tiny", "3D CNN, widths 16 to 128, attention over Z, 2D head at 1/16 (.58 M parameters)"),
        _card("depthcnn_base", "3D CNN, widths 32 to 256, attention over Z, 2D head at 1/16 (2.3 M parameters)"),
    )
}


class DepthCNN(InkModel):
    """Six 3D blocks down to (D/4, H/16, W/16), attention over Z, a 3x3 block and a 1x1 layer in 2D."""

    def __init__(
        self,
        card: ModelCard,
        *,
        depth: int,
        tile: int,
        classes: int = 1,
        width: int = 16,
        dropout: tuple[float, float] = (0.2, 0.3),
    ):
        super().__init__(card, depth=depth, tile=tile, classes=classes)
        if width < 1:
            raise ValueError(f"{card.name}: width {width} is not possible; 1 or more (16 by default)")
        self.encoder = nn.Sequential(
            conv_block_3d(1, width, (1, 2, 2)),
            conv_block_3d(width, 2 * width, (1, 2, 2)),
            conv_block_3d(2 * width, 2 * width),
            conv_block_3d(2 * width, 4 * width, (2, 2, 2)),
            conv_block_3d(4 * width, 4 * width),
            conv_block_3d(4 * width, 8 * width, (2, 2, 2)),
        )
        self.pool = ZAttention(8 * width)
        self.head = nn.Sequential(
            nn.Dropout(dropout[0]),
            nn.Conv2d(8 * width, 8 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(8 * width),
            nn.GELU(),
            nn.Dropout(dropout[1]),
            nn.Conv2d(8 * width, classes, 1),
        )

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        """(B, 1, D, H, W) -> logits [(B, C, H/16, W/16)]."""
        features = self.encoder(volume)
        return Heads([self.head(self.pool(features))])

    def shard_units(self) -> list[nn.Module]:
        return list(self.encoder)


def build_depthcnn_tiny(
    *, depth: int, tile: int, classes: int = 1, width: int = 16, dropout: tuple[float, float] = (0.2, 0.3)
) -> DepthCNN:
    """The network for two CPU cores: 577,617 parameters with one class."""
    card = CARDS["depthcnn_tiny"]
    return DepthCNN(card, depth=depth, tile=tile, classes=classes, width=width, dropout=dropout)


def build_depthcnn_base(
    *, depth: int, tile: int, classes: int = 1, width: int = 32, dropout: tuple[float, float] = (0.2, 0.3)
) -> DepthCNN:
    """The same network, twice as wide."""
    card = CARDS["depthcnn_base"]
    return DepthCNN(card, depth=depth, tile=tile, classes=classes, width=width, dropout=dropout)

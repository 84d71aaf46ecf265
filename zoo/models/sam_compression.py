"""The ways a volume becomes the picture that SAM's encoder was made for: (B, 1, D, H, W) -> images (B', C, H', W').

    name      picture                                     order of the layers   cost of the encoder
    stem      16 channels at 1/4 (`sam_tiny` alone)       kept                  1
    conv      3 learnt sums of layers (`three_channels`)  kept                  1
    inflated  the D layers as D channels                  kept                  1
    mean      the mean layer, three times                 lost                  1
    mosaic    4×4 pictures of three layers in one         kept, by place        16, and more in global attention
    fused     ⌈D/3⌉ pictures of three layers, apart       kept                  ⌈D/3⌉

`conv` and `inflated` learn each layer's weight; `inflated` starts from the colour weights of a checkpoint, shared out
over the layers. `mosaic` and `fused` show each layer as it is. Every module has `out_channels`, those of its image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.models.depth import ZAttention, ZConv, pad_depth
from zoo.models.layers import volume_stem


class VolumeStem(nn.Module):
    """Three small 3D convolutions, then Z as channels: (B, 1, D, H, W) -> (B, channels, H/4, W/4)."""

    def __init__(self, depth: int, channels: int, width: int = 16):
        super().__init__()
        self.out_channels = channels
        self.convs = volume_stem(width)
        self.to_plane = ZConv(2 * width, (depth + 1) // 2, channels, kernel_size=1)

    def forward(self, volume: Tensor) -> Tensor:
        return self.to_plane(self.convs(volume))


def three_channels(depth: int) -> ZConv:
    """3x3 convolution with Z as channels, (B, 1, D, H, W) -> (B, 3, H, W); starts as the means of three slabs.

    So a pretrained encoder is first shown something like a picture: upper, middle and lower layers as R, G, B.
    """
    compress = ZConv(1, depth, 3, kernel_size=3)
    weight = torch.zeros_like(compress.conv.weight)
    for channel in range(3):
        first = channel * depth // 3
        last = max(first + 1, (channel + 1) * depth // 3)
        weight[channel, first:last, 1, 1] = 1 / (last - first)
    with torch.no_grad():
        compress.conv.weight.copy_(weight)
        if compress.conv.bias is not None:
            compress.conv.bias.zero_()
    return compress


class Inflated(nn.Module):
    """The layers as channels, (B, 1, D, H, W) -> (B, D, H, W): the patch embedding itself takes D of them."""

    def __init__(self, depth: int):
        super().__init__()
        self.out_channels = depth

    def forward(self, volume: Tensor) -> Tensor:
        return volume[:, 0]


class GreyMean(nn.Module):
    """The mean over the layers as a grey picture: (B, 1, D, H, W) -> (B, 3, H, W). Any depth, no parameters."""

    out_channels = 3

    def __init__(self, depth: int):
        super().__init__()

    def forward(self, volume: Tensor) -> Tensor:
        return volume.mean(dim=2).expand(-1, 3, -1, -1)


class Mosaic(nn.Module):
    """Three layers a picture, 16 pictures in one of 4×4: (B, 1, D, H, W) -> (B, 3, 4H, 4W).

    It has room for 48 layers, three neighbours in each cell, from the first in the cell at the top left along the rows.
    Of more than 48 the middle ones are shown; of fewer each is shown about 48/D times over, in order, so that all cells
    are filled. A tile of 256 px makes the 1024 px that SAM was trained at.
    """

    out_channels = 3
    side = 4  # cells along a row and a column

    def __init__(self, depth: int):
        super().__init__()
        slots = 3 * self.side**2
        shown, first = min(depth, slots), max(0, (depth - slots) // 2)
        self.layers = [first + slot * shown // slots for slot in range(slots)]

    def forward(self, volume: Tensor) -> Tensor:
        batch, _, _, height, width = volume.shape
        cells = volume[:, 0, self.layers].reshape(batch, self.side, self.side, 3, height, width)
        rows = cells.permute(0, 3, 1, 4, 2, 5)  # colour, then row of cells and pixel, then column of cells and pixel
        return rows.reshape(batch, 3, self.side * height, self.side * width)

    def gather(self, masks: Tensor) -> Tensor:
        """Masks of the mosaic back to the tile, (B, M, 4h, 4w) -> (B, M, h, w): the mean logit over the 16 cells.

        Every cell shows the same papyrus, so the cells vote on each pixel; a cell that is sure counts more.
        """
        batch, number, height, width = masks.shape
        height, width = height // self.side, width // self.side
        return masks.reshape(batch, number, self.side, height, self.side, width).mean(dim=(2, 4))


class Triples(nn.Module):
    """Three layers a picture, each encoded apart: (B, 1, D, H, W) -> (B·T, 3, H, W) with T = ⌈D/3⌉; ends are repeated.

    `fuse` weighs the T embeddings at each place by attention. It starts as their mean; a code for each triple tells
    them apart by depth.
    """

    out_channels = 3

    def __init__(self, depth: int, embedding: int):
        super().__init__()
        self.triples = -(-depth // 3)
        self.place = nn.Parameter(torch.zeros(1, embedding, self.triples, 1, 1))
        self.attention = ZAttention(embedding)

    def forward(self, volume: Tensor) -> Tensor:
        volume, _ = pad_depth(volume, 3)
        return volume[:, 0].unflatten(1, (self.triples, 3)).flatten(0, 1)

    def fuse(self, embedding: Tensor) -> Tensor:
        """Embeddings of the triples to one a volume: (B·T, E, h, w) -> (B, E, h, w)."""
        apart = embedding.unflatten(0, (-1, self.triples)).transpose(1, 2)
        return self.attention(apart + self.place)


COMPRESSIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "conv": lambda depth, embedding: three_channels(depth),
    "inflated": lambda depth, embedding: Inflated(depth),
    "mean": lambda depth, embedding: GreyMean(depth),
    "mosaic": lambda depth, embedding: Mosaic(depth),
    "fused": Triples,
}
"""name -> (depth, channels of the image embedding) -> module. Those of the ViT variants."""

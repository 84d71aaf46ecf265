"""What U-Net3+ and ELU-Net are built of, plain and enhanced: blocks, pooling, up-sampling, and how layers come in.

'Enhanced' is a study of steel micrographs (2024): 7×7 kernels, dilated convolutions and blur pooling; a second variant
adds gated linear units. It says no more than that, and no code of it is known. Where they sit here, in both families:

    what       where                                             why there
    7×7        first convolution of every encoder level          context for each level; 7×7 everywhere would pay 5.4
                                                                 times the arithmetic in the decoder as well
    dilation   2, second convolution of the two deepest levels   reach where the map is smallest, at no cost
    blur       every pooling: max (stride 1), then blur          a stroke that moves by a pixel must not change the map
               [1 2 1] with stride 2
    GLU        second convolution of every encoder level, and    a gate a pixel, on what a 7×7 has gathered and on what
               the last one of every decoder node                comes together in the decoder; twice the channels there

`kernel="depthwise"` is the cheap form of the 7×7: one filter a channel, then a 1×1 convolution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.card import ModelCard
from zoo.models.depth import input_reduction
from zoo.models.layers import volume_stem

KERNELS = ("dense", "depthwise")
UPSAMPLINGS = ("bilinear", "nearest", "transposed")


@dataclass(frozen=True)
class Enhancement:
    """`kernel`: form of the 7×7, one of KERNELS. `glu`: gates besides.

    Raises:
        ValueError: no such form.
    """

    kernel: str = "dense"
    glu: bool = False

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise ValueError(f"kernel {self.kernel!r} is not possible; there are {', '.join(KERNELS)}")


def enhanced_card(card: ModelCard, *, glu: bool, cost: str) -> ModelCard:
    """The card of a plain network, with what the enhancements are, where they sit and what they cost."""
    where = (
        "not of the paper: 7×7 in the first convolution of every encoder level, for context at every scale; dilation 2 "
        "in the second one of the two deepest levels, for reach where the map is smallest; max-blur pooling, that "
        "a stroke may move by a pixel and the map stay",
        *(
            ["gated linear units in the second convolution of every encoder level and the last of every decoder node"]
            if glu
            else []
        ),
        "the study names the parts alone: where they sit was decided here; see zoo/models/enhanced.py",
    )
    return replace(
        card,
        paper=f"{card.paper}; enhanced after a study of steel micrographs (2024), of which no code is known",
        differs=(*card.differs, *where, cost),
        options={**card.options, "kernel": "form of the 7×7: dense, or depthwise (a filter a channel, then 1×1)"},
    )


def conv_unit(inputs: int, outputs: int, *, conv: nn.Module | None = None, dilation: int = 1, gated: bool = False):
    """Convolution (3×3 unless `conv` is given), BatchNorm, ReLU; `gated` makes twice the channels and halves by GLU."""
    width = 2 * outputs if gated else outputs
    if conv is None:
        conv = nn.Conv2d(inputs, width, 3, padding=dilation, dilation=dilation)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.GLU(dim=1) if gated else nn.ReLU())


def wide_conv(inputs: int, outputs: int, kernel: str) -> nn.Module:
    """The 7×7: 49·inputs·outputs multiply-adds a pixel dense, (49 + outputs)·inputs depthwise."""
    if kernel == "dense":
        return nn.Conv2d(inputs, outputs, 7, padding=3)
    spread = nn.Conv2d(inputs, inputs, 7, padding=3, groups=inputs, bias=False)
    return nn.Sequential(spread, nn.Conv2d(inputs, outputs, 1))


class EncoderLevel(nn.Module):
    """Two convolutions, then `pools` poolings by two: (B, C, h, w) -> [(B, C', h, w), (B, C', h/2, w/2), …].

    Max-pooling by 4 is max-pooling by 2, twice: what the decoder wants of a level is pooled once, step by step.
    """

    def __init__(self, inputs: int, outputs: int, *, pools: int, deep: bool, enhancement: Enhancement | None):
        super().__init__()
        self.pools = pools
        self.blur = enhancement is not None
        if enhancement is None:
            self.block = conv_pair(inputs, outputs)
        else:
            self.block = nn.Sequential(
                conv_unit(inputs, outputs, conv=wide_conv(inputs, outputs, enhancement.kernel)),
                conv_unit(outputs, outputs, dilation=2 if deep else 1, gated=enhancement.glu),
            )

    def forward(self, image: Tensor) -> list[Tensor]:
        sizes = [self.block(image)]
        for _ in range(self.pools):
            sizes.append(max_blur_pool(sizes[-1]) if self.blur else F.max_pool2d(sizes[-1], 2))
        return sizes


def conv_pair(inputs: int, outputs: int, *, gated: bool = False) -> nn.Sequential:
    """Two 3×3 convolutions, each with BatchNorm and ReLU; the second may be `gated`."""
    return nn.Sequential(conv_unit(inputs, outputs), conv_unit(outputs, outputs, gated=gated))


def max_blur_pool(image: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, h/2, w/2), h and w even: maximum of 2×2 at stride 1, blur [1 2 1]/4 both ways at stride 2.

    Zhang: Making Convolutional Networks Shift-Invariant Again, ICML 2019. Two means of two make the blur. Centred on
    the cells of plain pooling, so that nothing moves; the maximum sees nothing beyond the border.
    """
    greatest = F.max_pool2d(image, 2, stride=1, padding=1)
    return F.avg_pool2d(F.avg_pool2d(greatest, 2, stride=1), 2)


class UpConv(nn.Module):
    """Up-sampling by a power of two, then a 3×3 convolution: (B, C, h, w) -> (B, C', factor·h, factor·w).

    "transposed" doubles by a transposed convolution (2×2, stride 2, C to C) as often as it takes; factor 1 only
    convolves.
    """

    def __init__(self, inputs: int, outputs: int, factor: int, kind: str):
        super().__init__()
        if kind not in UPSAMPLINGS:
            raise ValueError(f"upsampling {kind!r} is not possible; there are {', '.join(UPSAMPLINGS)}")
        doublings = factor.bit_length() - 1 if kind == "transposed" else 0
        self.grow = nn.Sequential(*(nn.ConvTranspose2d(inputs, inputs, 2, stride=2) for _ in range(doublings)))
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.factor = 1 if kind == "transposed" else factor
        self.kind = kind
        # with fewer channels the nine products cost more to interpolate than the convolution saves (benchmarks/speed)
        self.swap = self.factor > 1 and inputs >= 4 * outputs

    def forward(self, image: Tensor) -> Tensor:
        image = self.grow(image)
        if self.swap:
            weight, bias = self.conv.weight, self.conv.bias
            return conv_of_upsampled(image, weight, bias, self.factor, self.kind)
        if self.factor > 1:
            height, width = image.shape[-2:]
            image = _resize(image, self.factor * height, self.factor * width, self.kind)
        return self.conv(image)


def conv_of_upsampled(image: Tensor, weight: Tensor, bias: Tensor | None, factor: int, kind: str) -> Tensor:
    """The 3×3 convolution of an up-sampled image, to rounding, most of it done before the image grows.

    (B, C, h, w), (C', C, 3, 3), (C') -> (B, C', factor·h, factor·w), zero-padded. A convolution is a sum of nine
    shifted 1×1 convolutions; a 1×1 convolution and an interpolation, which works on each channel by itself, may trade
    places; and the interpolation is separable. So: nine products at h×w, interpolated and summed along rows, then along
    columns. The C-channel map at full size is never made, nor kept for the gradient: C·C' multiply-adds a pixel become
    C·C'/factor².
    """
    outputs, inputs, *_ = weight.shape
    height, width = image.shape[-2:]
    products = F.conv2d(image, weight.permute(3, 2, 0, 1).reshape(9 * outputs, inputs, 1, 1))
    rows = _resize(products, height, factor * width, kind).chunk(3, dim=1)
    lines = F.pad(rows[0], (1, -1)) + rows[1] + F.pad(rows[2], (-1, 1))
    columns = _resize(lines, factor * height, factor * width, kind).chunk(3, dim=1)
    result = F.pad(columns[0], (0, 0, 1, -1)) + columns[1] + F.pad(columns[2], (0, 0, -1, 1))
    return result if bias is None else result + bias[:, None, None]


def _resize(image: Tensor, height: int, width: int, kind: str) -> Tensor:
    return F.interpolate(image, (height, width), mode=kind, align_corners=False if kind == "bilinear" else None)


class LayersIn(nn.Module):
    """How the layers become what a 2D network takes: (B, 1, D, H, W) -> (B, out_channels, H/stride, W/stride).

    Args:
        reduction: one of `zoo.models.depth.INPUT_REDUCTIONS`.
        stem: channels of the first convolution of a `zoo.models.layers.volume_stem` in front, which takes the plane to
            1/4 and Z to 1/2; 0 for none.
        width: channels that `zconv` makes.

    Raises:
        ValueError: no such reduction, negative stem.
    """

    def __init__(self, depth: int, *, reduction: str, stem: int, width: int):
        super().__init__()
        if stem < 0:
            raise ValueError(f"stem {stem} is not possible; 0 (none) or the channels of its first convolution")
        self.stride = 4 if stem else 1
        self.stem = volume_stem(stem) if stem else None
        channels, depth = (2 * stem, (depth + 1) // 2) if stem else (1, depth)
        self.reduce = input_reduction(reduction, channels=channels, depth=depth, width=width)
        self.out_channels = int(self.reduce.out_channels)  # pyright: ignore[reportArgumentType]

    def forward(self, volume: Tensor) -> Tensor:
        return self.reduce(volume if self.stem is None else self.stem(volume))

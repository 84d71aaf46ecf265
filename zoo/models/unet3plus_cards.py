"""The cards of U-Net3+, plain and enhanced."""

from __future__ import annotations

from zoo.card import ModelCard
from zoo.models.depth import REDUCTIONS
from zoo.models.enhanced import enhanced_card

_COST = (
    "a training step takes 1.15 times as long as the plain network's and 1.73 times the memory; with "
    'kernel="depthwise" 1.00 and 1.08 (CPU, one tile of 16 layers and 128 px: benchmarks/results/enhanced.txt)'
)
_COST_GLU = (
    "a training step takes 1.92 times as long as the plain network's and 1.99 times the memory; with "
    'kernel="depthwise" 1.66 and 1.50 (CPU, one tile of 16 layers and 128 px: benchmarks/results/enhanced.txt)'
)
_COST_TINY = "1.05 times the operations of the plain network: the 3D stem, which they leave alone, has most of them"
_COST_GLU_TINY = "1.12 times the operations of the plain network: the 3D stem, which they leave alone, has most of them"
_OPTIONS = {
    "filters": "channels of the encoder's levels, finest first; the first is the width of a branch",
    "deep_supervision": "a head on every level, each at its own resolution, instead of on the finest alone",
    "cgm": "the classification-guided module: says whether there is ink in the tile (aux `presence`), and multiplies "
    "the ink of every head by the probability that there is",
    "upsampling": "bilinear, nearest or transposed (learnt, 2×2 at stride 2 as often as it takes; many parameters)",
    "reduction": "how layers come in: channels (they are the channels of the first convolution), or a reduction of Z "
    f"to 2D: {', '.join(REDUCTIONS)}",
    "stem": "channels of a 3D stem in front, which takes the plane to 1/4 and Z to 1/2 (sides must then be multiples "
    "of four times as much); 0 for none",
}
_DIFFERS = (
    "layers are the channels of the image, or are reduced to it",
    "the classification-guided module multiplies probabilities, by a probability: it is differentiable, and a closed "
    "gate says no ink; in public code a logit is multiplied, by zero or one, and closed says one half",
    "deeply supervised heads keep their own resolution, and the loss brings the label to it",
)
_TINY_DIFFERS = (
    "three levels of 16, 32 and 64 channels behind a 3D stem that takes the plane to 1/4: a first layer in 2D "
    "learns each depth apart, and does not follow a surface that undulates",
)


def _card(name: str, summary: str, *, tiny: bool) -> ModelCard:
    return ModelCard(
        name=name,
        family="unet3plus",
        summary=summary,
        paper="Huang et al.: UNet 3+: A Full-Scale Connected UNet for Medical Image Segmentation, ICASSP 2020",
        url="https://arxiv.org/abs/2004.08790",
        licence="Apache-2.0 (written from the papers)",
        depth=16 if tiny else 32,
        tile=96 if tiny else 256,
        multiple=16,
        min_tile=32,
        out_stride=4 if tiny else 1,
        differs=(*_DIFFERS, *(_TINY_DIFFERS if tiny else ())),
        options=_OPTIONS,
    )


def _enhanced_card(name: str, summary: str, *, tiny: bool, glu: bool, cost: str) -> ModelCard:
    return enhanced_card(_card(name, summary, tiny=tiny), glu=glu, cost=cost)


CARDS = {
    card.name: card
    for card in (
        _card(
            "unet3plus_tiny",
            "every decoder node reads every scale; three narrow levels behind a strided 3D stem",
            tiny=True,
        ),
        _card(
            "unet3plus_base",
            "every decoder node reads every scale; five levels of 64 to 1024 channels, as published",
            tiny=False,
        ),
        _enhanced_card(
            "unet3plus_enhanced",
            "U-Net3+ whose encoder has 7×7 and dilated convolutions and blur pooling",
            tiny=False,
            glu=False,
            cost=_COST,
        ),
        _enhanced_card(
            "unet3plus_enhanced_glu",
            "the enhanced U-Net3+ with gated linear units in encoder and decoder",
            tiny=False,
            glu=True,
            cost=_COST_GLU,
        ),
        _enhanced_card(
            "unet3plus_enhanced_tiny",
            "the enhanced U-Net3+, three narrow levels behind a strided 3D stem",
            tiny=True,
            glu=False,
            cost=_COST_TINY,
        ),
        _enhanced_card(
            "unet3plus_enhanced_glu_tiny",
            "the enhanced U-Net3+ with gated linear units, three narrow levels",
            tiny=True,
            glu=True,
            cost=_COST_GLU_TINY,
        ),
    )
}

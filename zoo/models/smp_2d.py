"""Decoders of segmentation-models-pytorch on any of its encoders or timm's: layers become channels, or an image first.

    volume (B, 1, D, H, W) -> layers as channels (B, D, H, W), or a reduction of Z -> encoder, decoder -> (B, C, h, w)

The networks are the library's own. Where it ends with an upsampling to full resolution, that step is left out: losses
see the head as the decoder makes it, and `forward` upsamples.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.card import ModelCard
from zoo.models.base import Heads, InkModel
from zoo.models.depth import input_reduction


@dataclass(frozen=True)
class _Decoder:
    """One decoder of the library, and what differs from the others."""

    of: str  # its class in the library
    sizes: Callable[[int], dict[str, Any]]  # width -> the arguments that set the decoder's channels
    paper: str
    url: str
    encoder: str = "resnet18"
    out_stride: int = 1
    differs: tuple[str, ...] = ()


_NO_NORM = "the branch that is pooled to one pixel has no BatchNorm, which a single tile could not be trained with"


def _five(width: int) -> dict[str, Any]:
    return {"decoder_channels": (16 * width, 8 * width, 4 * width, 2 * width, width)}


_DECODERS = {
    "smp_unet": _Decoder(
        "Unet",
        _five,
        "Ronneberger et al.: U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015",
        "https://arxiv.org/abs/1505.04597",
    ),
    "smp_unetplusplus": _Decoder(
        "UnetPlusPlus",
        _five,
        "Zhou et al.: UNet++: A Nested U-Net Architecture for Medical Image Segmentation, DLMIA 2018",
        "https://arxiv.org/abs/1807.10165",
    ),
    "smp_manet": _Decoder(
        "MAnet",
        lambda width: _five(width) | {"decoder_pab_channels": 4 * width},
        "Fan et al.: MA-Net: A Multi-Scale Attention Network for Liver and Tumor Segmentation, IEEE Access 2020",
        "https://doi.org/10.1109/ACCESS.2020.3025372",
    ),
    "smp_linknet": _Decoder(
        "Linknet",
        lambda width: {},
        "Chaurasia and Culurciello: LinkNet: Exploiting Encoder Representations for Efficient Semantic Segmentation, "
        "VCIP 2017",
        "https://arxiv.org/abs/1707.03718",
    ),
    "smp_fpn": _Decoder(
        "FPN",
        lambda width: {"decoder_pyramid_channels": 16 * width, "decoder_segmentation_channels": 8 * width},
        "Lin et al.: Feature Pyramid Networks for Object Detection, CVPR 2017",
        "https://arxiv.org/abs/1612.03144",
        out_stride=4,
    ),
    "smp_pspnet": _Decoder(
        "PSPNet",
        lambda width: {"psp_out_channels": 32 * width},
        "Zhao et al.: Pyramid Scene Parsing Network, CVPR 2017",
        "https://arxiv.org/abs/1612.01105",
        out_stride=8,
        differs=("the encoder ends at 1/8 of the resolution, without dilation; its later stages are left out",),
    ),
    "smp_deeplabv3plus": _Decoder(
        "DeepLabV3Plus",
        lambda width: {"decoder_channels": 16 * width},
        "Chen et al.: Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, ECCV 2018",
        "https://arxiv.org/abs/1802.02611",
        out_stride=4,
        differs=(_NO_NORM,),
    ),
    "smp_upernet": _Decoder(
        "UPerNet",
        lambda width: {"decoder_channels": 16 * width},
        "Xiao et al.: Unified Perceptual Parsing for Scene Understanding, ECCV 2018",
        "https://arxiv.org/abs/1807.10221",
        out_stride=4,
        differs=(_NO_NORM,),
    ),
    "smp_segformer": _Decoder(
        "Segformer",
        lambda width: {"decoder_segmentation_channels": 16 * width},
        "Xie et al.: SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers, NeurIPS 2021",
        "https://arxiv.org/abs/2105.15203",
        encoder="mit_b0",
        out_stride=4,
    ),
    "smp_dpt": _Decoder(
        "DPT",
        lambda width: {
            "decoder_intermediate_channels": (16 * width, 32 * width, 64 * width, 64 * width),
            "decoder_fusion_channels": 16 * width,
        },
        "Ranftl et al.: Vision Transformers for Dense Prediction, ICCV 2021",
        "https://arxiv.org/abs/2103.13413",
        encoder="vit_tiny_patch16_224",
        differs=("a ViT-Ti/16 by default, not the paper's B, L or hybrid",),
    ),
}
_MIT_LICENCE = "mit_b0 to mit_b5 are under the NVIDIA Source Code License, for non-commercial use"


def _card(name: str, decoder: _Decoder) -> ModelCard:
    licence = "MIT (segmentation-models-pytorch)"
    differs = ["the layers are the encoder's input channels, or reduced to an image first"]
    if decoder.of != "Linknet":
        differs.append("at the default width the decoder has half the channels of the library's default")
    if decoder.out_stride > 1:
        differs.append(f"the head is read at 1/{decoder.out_stride}, before the library's last upsampling")
    options = {
        "encoder": f"any of segmentation-models-pytorch or, with or without the prefix tu-, of timm; "
        f"{_MIT_LICENCE} (default {decoder.encoder})",
        "weights": "what the encoder starts from: none (default), or imagenet or another set the library has of it, "
        "which is downloaded and cached; of a timm encoder its name tells the set, and any value asks for it",
        "reduction": "channels (layers as the encoder's channels, default), zconv (a convolution of them to three "
        "channels), or mean, max, tensor or attention (to one)",
    }
    if decoder.of != "Linknet":
        options["width"] = "channels of the decoder's finest level; the others in proportion; the library has 16 (8)"
    if decoder.of == "DPT":
        options["encoder"] = "a ViT of timm, such as vit_base_patch16_224 (default vit_tiny_patch16_224)"
    if decoder.encoder.startswith("mit_"):
        licence += f"; the encoder {decoder.encoder}: {_MIT_LICENCE}"
    return ModelCard(
        name=name,
        family="smp",
        summary=f"{decoder.of} of segmentation-models-pytorch on {decoder.encoder}; the layers are its input channels",
        paper=decoder.paper,
        url=decoder.url,
        licence=licence,
        multiple=32,
        min_tile=64,
        out_stride=decoder.out_stride,
        differs=(*differs, *decoder.differs),
        options=options,
        init_options=("weights",),
    )


CARDS = {name: _card(name, decoder) for name, decoder in _DECODERS.items()}


class SmpInk(InkModel):
    """A network of segmentation-models-pytorch behind a reduction of Z.

    Args:
        reduction: (B, 1, D, H, W) -> (B, C', H, W), the input of `network`.
        network: the library's model, whose `encoder` and `forward` are used.
    """

    def __init__(
        self,
        card: ModelCard,
        network: nn.Module,
        reduction: nn.Module,
        *,
        depth: int,
        tile: int,
        classes: int = 1,
    ):
        super().__init__(card, depth=depth, tile=tile, classes=classes)
        self.reduction = reduction
        self.network = network
        _take_norm_off_one_pixel(network)
        self._leave_out_unread()

    def _leave_out_unread(self) -> None:
        """Stages of the encoder that the decoder does not read are removed, single parameters frozen.

        Which they are depends on encoder and decoder, so autograd is asked. In evaluation mode, which leaves random
        numbers and statistics as they are.
        """
        parameters = list(self.parameters())
        side = max(self.card.min_tile, self.card.multiple)
        self.eval()
        with torch.enable_grad():
            logits = self.heads(torch.zeros(1, 1, self.depth, side, side)).logits[0]
            gradients = torch.autograd.grad(logits.sum(), parameters, allow_unused=True)
        self.train()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)
        encoder: nn.Module = self.network.encoder  # pyright: ignore[reportAssignmentType]
        for name, stage in list(encoder.named_children()):
            own = list(stage.parameters())
            if own and not any(parameter.requires_grad for parameter in own):
                setattr(encoder, name, nn.Identity())

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        """(B, 1, D, H, W) -> logits [(B, C, H/out_stride, W/out_stride)]."""
        return Heads([self.network(self.reduction(volume))])


def _take_norm_off_one_pixel(network: nn.Module) -> None:
    """BatchNorm behind a pooling to one pixel sees one value a tile and channel: it fails in training on one tile."""
    for branch in network.modules():
        if isinstance(branch, nn.Sequential) and len(branch) and isinstance(branch[0], nn.AdaptiveAvgPool2d):
            if branch[0].output_size not in (1, (1, 1)):
                continue
            for part in list(branch.modules()):
                for name, child in list(part.named_children()):
                    if isinstance(child, nn.BatchNorm2d):
                        setattr(part, name, nn.Identity())


def build_smp(
    name: str,
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    encoder: str = "resnet18",
    weights: str | None = None,
    reduction: str = "channels",
    width: int = 8,
) -> SmpInk:
    """The decoder of `name` on any encoder; what the options mean is on its card.

    Raises:
        ValueError: an option that is not possible, an encoder that the decoder cannot take.
        FileNotFoundError: weights that are neither in the cache nor to be fetched.
    """
    import segmentation_models_pytorch as smp  # seconds: a card is read without it

    decoder = _DECODERS[name]
    if width < 1:
        raise ValueError(f"{name}: width {width} is not possible; 1 or more (8 by default)")
    InkModel(CARDS[name], depth=depth, tile=tile, classes=classes)  # refuse a wrong size before a download
    front = input_reduction(reduction, channels=1, depth=depth, width=3)
    extra = decoder.sizes(width)
    if decoder.of == "DPT":
        extra |= {"img_size": tile, "dynamic_img_size": True}  # so that other sizes than the tile work as well
    elif decoder.out_stride > 1:
        extra["upsampling"] = 1
    encoder_name = _encoder_name(name, encoder, vit=decoder.of == "DPT")
    # libraries read drop-path rates and the like off tensors, which fails where the default is the meta device
    home = torch.get_default_device()
    try:
        with torch.device("cpu"):
            network = getattr(smp, decoder.of)(
                encoder_name=encoder_name,
                encoder_weights=_weights_of(name, encoder_name, weights),
                in_channels=front.out_channels,
                classes=classes,
                **extra,
            )
    except OSError as error:
        raise FileNotFoundError(
            f"{name}: weights {weights!r} of {encoder} are not in the cache and could not be fetched ({error}); "
            "connect to a network once, or leave weights out"
        ) from error
    except (KeyError, TypeError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ValueError(f"{name}: cannot be built on encoder {encoder!r}: {error}; choose another") from error
    return SmpInk(CARDS[name], network.to(home), front, depth=depth, tile=tile, classes=classes)


def _encoder_name(model: str, encoder: str, *, vit: bool) -> str:
    """The library's name of an encoder: its own as it is, one of timm with the prefix."""
    import timm
    from segmentation_models_pytorch.encoders import get_encoder_names

    own = [] if vit else get_encoder_names()
    if encoder in own:
        return encoder
    plain = encoder.removeprefix("tu-")
    if timm.is_model(plain.split(".")[0]):
        return f"tu-{plain}"
    known = timm.list_models("vit*") if vit else [*own, *timm.list_models()]
    close = ", ".join(difflib.get_close_matches(encoder, known, n=3, cutoff=0.3)) or _DECODERS[model].encoder
    raise ValueError(f"{model}: unknown encoder {encoder!r}; the nearest are {close}")


def _weights_of(model: str, encoder: str, weights: str | None) -> str | bool | None:
    """What the library takes for `weights`: timm's encoders know only whether."""
    from segmentation_models_pytorch.encoders import encoders

    if weights is None or encoder.startswith("tu-"):
        return None if weights is None else True
    known = list(encoders[encoder]["pretrained_settings"])
    if weights not in known:
        raise ValueError(f"{model}: no weights {weights!r} of {encoder}; there are {', '.join(known)}")
    return weights


def build_smp_linknet(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    encoder: str = "resnet18",
    weights: str | None = None,
    reduction: str = "channels",
) -> SmpInk:
    """LinkNet, whose decoder has the channels of its encoder: there is no width to choose."""
    return build_smp(
        "smp_linknet",
        depth=depth,
        tile=tile,
        classes=classes,
        encoder=encoder,
        weights=weights,
        reduction=reduction,
    )


build_smp_unet = partial(build_smp, "smp_unet")
build_smp_unetplusplus = partial(build_smp, "smp_unetplusplus")
build_smp_manet = partial(build_smp, "smp_manet")
build_smp_fpn = partial(build_smp, "smp_fpn")
build_smp_pspnet = partial(build_smp, "smp_pspnet")
build_smp_deeplabv3plus = partial(build_smp, "smp_deeplabv3plus")
build_smp_upernet = partial(build_smp, "smp_upernet")
build_smp_segformer = partial(build_smp, "smp_segformer", encoder="mit_b0")
build_smp_dpt = partial(build_smp, "smp_dpt", encoder="vit_tiny_patch16_224")

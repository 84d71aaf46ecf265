"""3D networks of MONAI, between a patch convolution in the plane and a reduction of Z to 2D.

    volume (B, 1, D, H, W) -> patch convolution (1, s, s), stride s -> (B, 8, D, H/s, W/s)
      -> layers edge-padded -> the library's network -> padding cut off -> reduction -> (B, C, H/s, W/s)

The networks are the library's own. What they cost at full resolution, two CPU cores cannot train: hence the patch
convolution. With `stem=1` there is none, and the network reads voxels. Their convolutions are `nn.Conv3d`s that pad Z,
so the trainer stays in fp32 on a CPU. With two layers bf16 gradients of those are garbage (zoo.models.layers.conv3d):
so the coarsest level has three; SwinUNETR's cannot, and its convolutions are replaced by ours.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zoo.card import ModelCard
from zoo.models.base import Heads, InkModel
from zoo.models.depth import make_reduction, pad_depth
from zoo.models.layers import Conv3d

if TYPE_CHECKING:
    from collections.abc import Callable

_STEM_CHANNELS = 8
_VOLUME_CHANNELS = 4  # that the network gives to zconv
_REDUCTION = "Z to 2D: zconv (Z as channels, default), mean, max, tensor or attention"

_OPTIONS = {
    "stem": "side of the patch convolution in the plane, 1 (none), 2 or 4; the head is at 1/stem (default 4)",
    "reduction": _REDUCTION,
}
_TO_2D = "its last layer makes 4 channels, which a 3×3 convolution with Z as channels turns to 2D"
_DIFFERS = (
    "a patch convolution with stride (1, 4, 4) first, so that the network runs at a quarter of the resolution in plane "
    "and at full resolution in Z; the head is at a quarter too",
    "layers are edge-padded to a multiple of 4, at least 12, and the padding is cut off behind the network",
    _TO_2D,
)


def _card(name: str, summary: str, paper: str, url: str, width: str, differs: str) -> ModelCard:
    return ModelCard(
        name=name,
        family="monai",
        summary=summary,
        paper=paper,
        url=url,
        licence="Apache-2.0 (MONAI)",
        multiple=16,
        min_tile=32,
        out_stride=4,
        differs=(*_DIFFERS, differs),
        options={"width": width, **_OPTIONS},
    )


CARDS = {
    card.name: card
    for card in (
        _card(
            "monai_segresnet",
            "MONAI's SegResNet, three levels of residual blocks, behind a 4-px patch convolution",
            "Myronenko: 3D MRI Brain Tumor Segmentation Using Autoencoder Regularization, BrainLes 2018",
            "https://arxiv.org/abs/1810.11654",
            "channels of the finest level, a multiple of 8; each coarser one has twice as many (default 16)",
            "three levels of 1, 2 and 2 blocks; no variational autoencoder branch",
        ),
        _card(
            "monai_unet",
            "MONAI's UNet with a residual unit a level, three levels, behind a 4-px patch convolution",
            "Kerfoot et al.: Left-Ventricle Quantification Using Residual U-Net, STACOM 2018",
            "https://doi.org/10.1007/978-3-030-12029-0_40",
            "channels of the finest level; each coarser one has twice as many (default 32)",
            "three levels; the two finer ones halve the resolution, so all but the last layers run below the patches'",
        ),
        _card(
            "monai_dynunet",
            "MONAI's DynUNet, the network of nnU-Net, three levels, behind a 4-px patch convolution",
            "Isensee et al.: nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, "
            "Nature Methods 2021",
            "https://arxiv.org/abs/1904.08128",
            "channels of the finest level; each coarser one has twice as many (default 16)",
            "three levels, no deep supervision; nothing configures itself",
        ),
        ModelCard(
            name="monai_swinunetr",
            family="monai",
            summary="MONAI's SwinUNETR, four stages of one block, behind a 3-px patch convolution",
            paper="Hatamizadeh et al.: Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI "
            "Images, BrainLes 2021",
            url="https://arxiv.org/abs/2201.01266",
            licence="Apache-2.0 (MONAI)",
            multiple=96,
            min_tile=96,
            out_stride=3,
            not_traced="the library checks the size with NumPy, in a branch that torch.compile cannot follow",
            differs=(
                "a patch convolution with stride (1, 3, 3) first: the network takes multiples of 32, here of 96 px",
                "layers are edge-padded to a multiple of 32, and the padding is cut off behind the network",
                "one block a stage instead of two, windows of 4 instead of 7, 12 channels instead of 48",
                "group norm instead of instance norm, which the coarsest level, often a single voxel, cannot have",
                _TO_2D,
            ),
            options={
                "feature_size": "channels of the finest level, a multiple of 12 (default 12; the paper has 48)",
                "blocks": "Swin blocks of each of the four stages (default 1; the paper has 2)",
                "window": "side of a window of attention (default 4; the paper has 7)",
                "stem": "side of the patch convolution in the plane, 1 (none) or 3; the head is at 1/stem (default 3)",
                "reduction": _REDUCTION,
            },
        ),
    )
}


class MonaiInk(InkModel):
    """A 3D network of MONAI on patches of the plane, and Z to 2D behind it.

    Args:
        network: (channels in, channels out) -> module that keeps (D, H, W).
        stem, reduction: as on the card.
        stems: those that are possible.
        z_multiple, least_layers: of the layers that the network takes.
    """

    def __init__(
        self,
        card: ModelCard,
        network: Callable[[int, int], nn.Module],
        *,
        depth: int,
        tile: int,
        classes: int,
        stem: int,
        reduction: str,
        stems: tuple[int, ...] = (1, 2, 4),
        z_multiple: int = 4,
        least_layers: int = 12,
    ):
        if stem not in stems:
            raise ValueError(f"{card.name}: stem {stem} is not possible; there are {', '.join(map(str, stems))}")
        super().__init__(replace(card, out_stride=stem), depth=depth, tile=tile, classes=classes)
        self.stem = nn.Identity() if stem == 1 else nn.Conv3d(1, _STEM_CHANNELS, (1, stem, stem), (1, stem, stem))
        channels = _VOLUME_CHANNELS if reduction == "zconv" else classes
        self.network = network(1 if stem == 1 else _STEM_CHANNELS, channels)
        self.reduction = make_reduction(reduction, channels=channels, depth=depth, out_channels=classes)
        self.padded_depth = max(least_layers, -(-depth // z_multiple) * z_multiple)

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        """(B, 1, D, H, W) -> logits [(B, C, H/stem, W/stem)]."""
        padded, before = pad_depth(self.stem(volume), self.padded_depth)
        features = self.network(padded)[:, :, before : before + self.depth]
        return Heads([self.reduction(features)])


def _check(name: str, width: int, step: int = 1, option: str = "width") -> None:
    if width < 1 or width % step:
        raise ValueError(f"{name}: {option} {width} is not possible; a multiple of {step} from {step} on is")


def build_monai_unet(
    *, depth: int, tile: int, classes: int = 1, width: int = 32, stem: int = 4, reduction: str = "zconv"
) -> MonaiInk:
    """MONAI's UNet: strided convolutions down, transposed ones up, a residual unit a level."""
    from monai.networks.nets.unet import UNet  # seconds: a card is read without it

    _check("monai_unet", width)
    return MonaiInk(
        CARDS["monai_unet"],
        # a bias before an instance norm has no effect
        lambda inputs, outputs: UNet(
            3, inputs, outputs, (width, 2 * width, 4 * width), (2, 2), num_res_units=1, bias=False
        ),
        depth=depth,
        tile=tile,
        classes=classes,
        stem=stem,
        reduction=reduction,
    )


def build_monai_segresnet(
    *, depth: int, tile: int, classes: int = 1, width: int = 16, stem: int = 4, reduction: str = "zconv"
) -> MonaiInk:
    """MONAI's SegResNet: residual blocks with group norm, trilinear upsampling."""
    from monai.networks.nets.segresnet import SegResNet

    _check("monai_segresnet", width, step=8)  # of its groups
    return MonaiInk(
        CARDS["monai_segresnet"],
        lambda inputs, outputs: SegResNet(3, width, inputs, outputs, blocks_down=(1, 2, 2), blocks_up=(1, 1)),
        depth=depth,
        tile=tile,
        classes=classes,
        stem=stem,
        reduction=reduction,
    )


def build_monai_dynunet(
    *, depth: int, tile: int, classes: int = 1, width: int = 16, stem: int = 4, reduction: str = "zconv"
) -> MonaiInk:
    """MONAI's DynUNet: two convolutions with instance norm and leaky ReLU a level."""
    from monai.networks.nets.dynunet import DynUNet

    _check("monai_dynunet", width)
    return MonaiInk(
        CARDS["monai_dynunet"],
        lambda inputs, outputs: DynUNet(
            3, inputs, outputs, [3, 3, 3], [1, 2, 2], [2, 2], filters=[width, 2 * width, 4 * width]
        ),
        depth=depth,
        tile=tile,
        classes=classes,
        stem=stem,
        reduction=reduction,
    )


def build_monai_swinunetr(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    feature_size: int = 12,
    blocks: int = 1,
    window: int = 4,
    stem: int = 3,
    reduction: str = "zconv",
) -> MonaiInk:
    """MONAI's SwinUNETR: a Swin transformer over voxels, and a convolutional decoder.

    It halves all axes five times, so 16 layers cost as much as 32.
    """
    from monai.networks.nets import swin_unetr

    if find_spec("einops") is None:  # an optional dependency of MONAI, for nothing but permuted axes here
        swin_unetr.rearrange = _rearrange  # pyright: ignore[reportAttributeAccessIssue]
    _check("monai_swinunetr", feature_size, step=12, option="feature_size")
    _check("monai_swinunetr", blocks, option="blocks")
    _check("monai_swinunetr", window, option="window")

    def network(inputs: int, outputs: int) -> nn.Module:
        with torch.device("cpu"):  # it reads drop-path rates off a tensor, which fails where the default is meta
            net = swin_unetr.SwinUNETR(
                inputs,
                outputs,
                feature_size=feature_size,
                depths=(blocks,) * 4,
                window_size=window,
                norm_name=("group", {"num_groups": 4}),
            )
            _trust(net)  # five halvings make two layers of 32 somewhere
        return net.to(torch.get_default_device())

    return MonaiInk(
        CARDS["monai_swinunetr"],
        network,
        depth=depth,
        tile=tile,
        classes=classes,
        stem=stem,
        reduction=reduction,
        stems=(1, 3),
        z_multiple=32,
        least_layers=32,
    )


def _rearrange(tensor: Tensor, pattern: str) -> Tensor:
    """What einops makes of a pattern such as "n c d h w -> n d h w c": the axes permuted."""
    given, wanted = (side.split() for side in pattern.split("->"))
    return tensor.permute([given.index(axis) for axis in wanted])


def _trust(network: nn.Module) -> None:
    """Put convolutions whose bf16 gradients can be trusted, with the same weights, in place of 3×3×3 `nn.Conv3d`s."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv3d) and child.kernel_size == (3, 3, 3) and child.stride == (1, 1, 1):
                ours = Conv3d(child.in_channels, child.out_channels, 3, bias=child.bias is not None)
                ours.load_state_dict(child.state_dict())
                setattr(parent, name, ours)

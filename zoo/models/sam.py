"""SAM for ink: the layers are compressed to an image, and Segment Anything's own modules do the rest.

    volume (B, 1, D, H, W) -> compress -> image (B, 3, H, W) -> image encoder (ViT) -> (B, 256, H/16, W/16)
      -> mask decoder, without a prompt -> logits (B, C, H/4, W/4) and one predicted IoU a class

Image encoder, prompt encoder and mask decoder are `segment_anything`'s classes under its names, so an official
checkpoint fits key by key. Its `Sam.forward` runs without gradients and its decoder takes one image at a time; the
assembly below trains, and takes a batch of images of any size that the patches divide. The class c is read from mask
token c: with one class that is SAM's single-mask token.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn

from zoo.card import ModelCard
from zoo.models.base import Heads, InkModel
from zoo.models.depth import ZConv
from zoo.models.layers import conv_block_3d

_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
_SHARED_DIFFERS = (
    "No prompt: the learned no-mask embedding and no points, as in SAM's own path without prompts.",
    "More than one class: class c is read from mask token c, with a softmax over them.",
)


def _card(
    name: str,
    summary: str,
    *,
    multiple: int,
    out_stride: int,
    tile: int,
    differs: tuple[str, ...],
    options: dict[str, str],
    init_options: tuple[str, ...] = (),
) -> ModelCard:
    return ModelCard(
        name=name,
        family="sam",
        summary=summary,
        paper="Segment Anything, ICCV 2023",
        url="https://arxiv.org/abs/2304.02643",
        depth=16,
        tile=tile,
        multiple=multiple,
        min_tile=16,
        out_stride=out_stride,
        differs=differs + _SHARED_DIFFERS,
        options=options,
        init_options=init_options,
    )


CARDS = {
    card.name: card
    for card in (
        _card(
            "sam_tiny",
            "SAM that learns from scratch on two cores: 3D stem, ViT of width 128 and 4 blocks, 8-px patches",
            multiple=8,
            out_stride=2,
            tile=96,
            differs=(
                "Z is compressed by three 3D convolutions and a Z-as-channels one to 16 channels at 1/4, not to 3.",
                "Patches of 2 px of that image (8 px of the input) instead of 16 px; masks come out at 1/2.",
                "A 1×1 convolution reads ink off the compressed image too, in training: without it the compression "
                "learns through an untrained ViT, and some seeds stay at chance for hundreds of steps.",
                "All blocks attend globally; embedding 128 instead of 256; only as many mask tokens as classes.",
            ),
            options={"width": "channels of the first 3D convolution; the others have twice as many"},
        ),
        _card(
            "sam_vit_b",
            "SAM ViT-B behind a learned convolution that makes three channels of the layers",
            multiple=16,
            out_stride=4,
            tile=256,
            differs=("Any tile in 16-px steps: positional embeddings and relative positions are resized to it.",),
            options={"checkpoint": "path of the official weights (sam_vit_b_01ec64.pth), checked by their SHA-256"},
            init_options=("checkpoint",),
        ),
    )
}


@dataclass(frozen=True)
class SamSize:
    """Every number that tells one variant from another."""

    width: int
    blocks: int
    heads: int
    global_blocks: tuple[int, ...]
    window: int
    patch: int
    """Side of a patch of the compressed image."""
    channels: int
    """Of the compressed image."""
    embedding: int
    decoder_heads: int
    decoder_mlp: int
    multimask: int
    """Mask tokens besides the first."""
    sha256: str = ""
    """Of the official checkpoint."""


SIZES = {
    "sam_tiny": SamSize(
        width=128,
        blocks=4,
        heads=4,
        global_blocks=(0, 1, 2, 3),
        window=0,
        patch=2,
        channels=16,
        embedding=128,
        decoder_heads=4,
        decoder_mlp=256,
        multimask=0,
    ),
    "sam_vit_b": SamSize(
        width=768,
        blocks=12,
        heads=12,
        global_blocks=(2, 5, 8, 11),
        window=14,
        patch=16,
        channels=3,
        embedding=256,
        decoder_heads=8,
        decoder_mlp=2048,
        multimask=3,
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
}


class VolumeStem(nn.Module):
    """Three small 3D convolutions, then Z as channels: (B, 1, D, H, W) -> (B, channels, H/4, W/4).

    The kernels slide along Z too, so what they learn on a surface at one depth holds where it lies deeper; a single
    convolution with Z as channels has to learn each depth apart.
    """

    def __init__(self, depth: int, channels: int, width: int = 16):
        super().__init__()
        self.convs = nn.Sequential(
            conv_block_3d(1, width, (1, 2, 2)),
            conv_block_3d(width, 2 * width, (2, 2, 2)),
            conv_block_3d(2 * width, 2 * width),
        )
        self.to_plane = ZConv(2 * width, (depth + 1) // 2, channels, kernel_size=1)

    def forward(self, volume: Tensor) -> Tensor:
        return self.to_plane(self.convs(volume))


class SamInk(InkModel):
    """Z compression in front of Segment Anything's image encoder, prompt encoder and mask decoder.

    `compress(depth)` builds the compression: (B, 1, D, H, W) -> an image of `size.channels` channels;
    `supervise_compression` adds a head on that image, for training from scratch.
    """

    def __init__(
        self,
        card: ModelCard,
        size: SamSize,
        compress: Callable[[int], nn.Module],
        *,
        depth: int,
        tile: int,
        classes: int = 1,
        supervise_compression: bool = False,
    ):
        super().__init__(card, depth=depth, tile=tile, classes=classes)
        grid = tile // card.multiple
        self.size = size
        self.compress = compress(depth)
        self.early_head = nn.Conv2d(size.channels, classes, 1) if supervise_compression else None
        self.image_encoder = ImageEncoderViT(
            img_size=grid * size.patch,
            patch_size=size.patch,
            in_chans=size.channels,
            embed_dim=size.width,
            depth=size.blocks,
            num_heads=size.heads,
            out_chans=size.embedding,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),  # pyright: ignore[reportArgumentType]
            use_rel_pos=True,
            window_size=size.window,
            global_attn_indexes=size.global_blocks,
        )
        self.prompt_encoder = PromptEncoder(
            embed_dim=size.embedding,
            image_embedding_size=(grid, grid),
            input_image_size=(tile, tile),
            mask_in_chans=16,
        )
        self.mask_decoder = MaskDecoder(
            num_multimask_outputs=max(size.multimask, classes - 1),
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=size.embedding, num_heads=size.decoder_heads, mlp_dim=size.decoder_mlp
            ),
            transformer_dim=size.embedding,
            iou_head_hidden_dim=size.embedding,
        )
        position = self.image_encoder.pos_embed
        assert position is not None
        nn.init.trunc_normal_(position, std=0.02)
        self._freeze_unused()

    def _freeze_unused(self) -> None:
        """Without a prompt, and with one mask token a class, these never see a gradient."""
        for part in (
            self.prompt_encoder.point_embeddings,
            self.prompt_encoder.not_a_point_embed,
            self.prompt_encoder.mask_downscaling,
            *self.mask_decoder.output_hypernetworks_mlps[self.classes :],
        ):
            part.requires_grad_(False)

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> image embedding (B, E, H/patch, W/patch)."""
        encoder = self.image_encoder
        tokens = encoder.patch_embed(image)
        position = encoder.pos_embed
        if position is not None:
            tokens = tokens + resize_grid(position, tokens.shape[1], tokens.shape[2])
        for block in encoder.blocks:
            tokens = block(tokens)
        return encoder.neck(tokens.permute(0, 3, 1, 2))

    def decode(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Image embedding (B, E, h, w) -> mask logits (B, C, 4h, 4w), predicted IoU (B, C); without a prompt."""
        decoder, prompts = self.mask_decoder, self.prompt_encoder
        batch, _, height, width = embedding.shape
        position = dense_position(cast(Tensor, prompts.pe_layer.positional_encoding_gaussian_matrix), height, width)
        position = position.expand(batch, -1, -1, -1)
        source = embedding + prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(batch, -1, -1)
        tokens, source = decoder.transformer(source, position, tokens)
        pixels = decoder.output_upscaling(source.transpose(1, 2).reshape(batch, -1, height, width))
        weights = torch.stack(
            [decoder.output_hypernetworks_mlps[c](tokens[:, 1 + c]) for c in range(self.classes)], dim=1
        )
        masks = torch.einsum("bce,behw->bchw", weights, pixels)
        return masks, decoder.iou_prediction_head(tokens[:, 0])[:, : self.classes]

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        """(B, 1, D, H, W) -> logits [(B, C, 4h, 4w)] on the grid h, w of patches; aux `iou` (B, C), unbounded.

        With `supervise_compression` a second entry is read off the compressed image, at that image's resolution.
        """
        image = self.compress(volume)
        masks, iou = self.decode(self.encode(image))
        early = [] if self.early_head is None else [self.early_head(image)]
        return Heads([masks, *early], {"iou": iou})


def dense_position(frequencies: Tensor, height: int, width: int) -> Tensor:
    """SAM's positional encoding of a grid: frequencies (2, E/2) for x and y -> (1, E, height, width).

    As `PromptEncoder.get_dense_pe`, without its matrix product: autocast would round the angles, which reach tens of
    radians, and scramble the finer half of the encoding.
    """
    y = (torch.arange(height, device=frequencies.device) + 0.5) * (2 / height) - 1
    x = (torch.arange(width, device=frequencies.device) + 0.5) * (2 / width) - 1
    along_x, along_y = (frequencies * (2 * math.pi))[:, :, None, None]
    angles = along_x * x + along_y * y[:, None]
    return torch.cat([angles.sin(), angles.cos()]).unsqueeze(0)


def resize_grid(position: Tensor, height: int, width: int) -> Tensor:
    """Positional embedding (1, h, w, E) -> (1, height, width, E), bicubic."""
    if position.shape[1:3] == (height, width):
        return position
    grid = position.permute(0, 3, 1, 2)
    return F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)


def resize_relative(position: Tensor, length: int) -> Tensor:
    """Relative positions (2n - 1, E) -> (length, E), linear, as segment_anything does when sizes differ."""
    if position.shape[0] == length:
        return position
    return F.interpolate(position.t().unsqueeze(0), size=length, mode="linear")[0].t()


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


def read_official(path: str | Path, *, sha256: str) -> dict[str, Tensor]:
    """The tensors of an official checkpoint, opened only after its digest matches.

    Raises:
        FileNotFoundError: no such file; the message says where to get it.
        ValueError: its SHA-256 is not `sha256`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no SAM checkpoint at {path}; the official ones are under {_URL} (this one must have SHA-256 {sha256})"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise ValueError(f"{path} has SHA-256 {digest}, expected {sha256}: not the official file; download it again")
    return torch.load(path, map_location="cpu", weights_only=True)


def load_official(model: SamInk, tensors: dict[str, Tensor]) -> None:
    """Put an official checkpoint's tensors into `model`: all of SAM; the Z compression keeps what it has.

    Raises:
        ValueError: other tensors than SAM's, or of another variant.
    """
    own = model.state_dict()
    strange = sorted(tensors.keys() - own.keys())
    absent = sorted(key for key in own.keys() - tensors.keys() if not key.startswith("compress."))
    # Tokens beyond SAM's four, for more than four classes, have no counterpart.
    absent = [key for key in absent if not key.startswith("mask_decoder.output_hypernetworks_mlps.")]
    fitted = {key: _fit(key, tensor, own[key]) for key, tensor in tensors.items() if key in own}
    strange += [f"{key} {tuple(tensor.shape)}" for key, tensor in fitted.items() if tensor.shape != own[key].shape]
    if strange or absent:
        raise ValueError(
            f"the checkpoint does not fit {model.card.name}: not of it {strange[:3]}, absent {absent[:3]}; "
            "take the file of that variant"
        )
    model.load_state_dict(fitted, strict=False)


def _fit(key: str, tensor: Tensor, own: Tensor) -> Tensor:
    """A checkpoint's tensor in the shape of the model's: resized positions, or the first rows of more tokens."""
    if key.endswith("pos_embed"):
        return resize_grid(tensor, own.shape[1], own.shape[2])
    if "rel_pos" in key:
        return resize_relative(tensor, own.shape[0])
    if tensor.shape != own.shape and tensor.shape[1:] == own.shape[1:] and len(tensor) < len(own):
        return torch.cat([tensor, own[len(tensor) :]])
    return tensor


def build_sam_tiny(*, depth: int, tile: int, classes: int = 1, width: int = 16) -> SamInk:
    """The variant that trains from scratch in minutes on two CPU cores."""
    size = SIZES["sam_tiny"]
    if width < 1:
        raise ValueError(f"sam_tiny: width {width} is not possible; 1 or more (16 by default)")
    stem = partial(VolumeStem, channels=size.channels, width=width)
    return SamInk(CARDS["sam_tiny"], size, stem, depth=depth, tile=tile, classes=classes, supervise_compression=True)


def build_sam_vit_b(*, depth: int, tile: int, classes: int = 1, checkpoint: str | Path | None = None) -> SamInk:
    """SAM ViT-B: 93,735,472 parameters at tile 1024, besides the Z compression."""
    size = SIZES["sam_vit_b"]
    tensors = None if checkpoint is None else read_official(checkpoint, sha256=size.sha256)
    model = SamInk(CARDS["sam_vit_b"], size, three_channels, depth=depth, tile=tile, classes=classes)
    if tensors is not None:
        load_official(model, tensors)
    return model

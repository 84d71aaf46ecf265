"""SAM for ink: the layers are compressed to an image, and Segment Anything does the rest.

    volume (B, 1, D, H, W) -> compress -> image (B, 3, H, W) -> image encoder (ViT) -> (B, 256, H/16, W/16)
      -> mask decoder, without a prompt or with some -> logits (B, C, H/4, W/4) and one predicted IoU a class

The variants lie in sam.py, cards and options in sam_cards.py, the compressions in sam_compression.py, the encoder in
sam_encoder.py, prompts in sam_prompts.py; sam_checkpoint.py fits the official weights, which zoo.pretrained reads.
Prompt encoder and mask decoder are `segment_anything`'s classes, and all of it has its parameter names, so an official
checkpoint fits key by key. Its `Sam.forward` runs without gradients and its decoder takes one image at a time; the
assembly below trains, and takes a batch of images of any size that the patches divide. Class c is read from mask token
c: with one class that is SAM's single-mask token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn

from zoo.card import ModelCard
from zoo.models.base import Heads, InkModel
from zoo.models.sam_checkpoint import fit_positions
from zoo.models.sam_compression import Inflated, Mosaic, Triples
from zoo.models.sam_encoder import ImageEncoder
from zoo.models.sam_prompts import embed_prompts, frequencies_of, grid_position

TUNINGS = ("full", "decoder", "lora")
CANDIDATES = 3
"""Masks that `multimask` gives: SAM's three tokens for what a prompt leaves open."""


@dataclass(frozen=True)
class SamSize:
    """Every number that tells one variant from another; by default those that B, L and H share."""

    width: int
    blocks: int
    heads: int
    global_blocks: tuple[int, ...]
    window: int = 14
    patch: int = 16
    """Side of a patch of the compressed image."""
    embedding: int = 256
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    multimask: int = 3
    """Mask tokens besides the first."""


class SamInk(InkModel):
    """Z compression in front of Segment Anything's image encoder, prompt encoder and mask decoder.

    Args:
        compress: (depth, embedding) -> module of sam_compression.py.
        supervise_compression: adds a head on the compressed image, for training from scratch.
        drop_path, multimask: as on the card.
    """

    can_checkpoint = True

    def __init__(
        self,
        card: ModelCard,
        size: SamSize,
        compress: Callable[[int, int], nn.Module],
        *,
        depth: int,
        tile: int,
        classes: int = 1,
        supervise_compression: bool = False,
        drop_path: float = 0.0,
        multimask: bool = False,
    ):
        super().__init__(card, depth=depth, tile=tile, classes=classes)
        if multimask and classes > 1:
            raise ValueError(f"{card.name}: multimask gives candidates for one class, not for {classes}; set one aside")
        self.size = size
        self.compress = compress(depth, size.embedding)
        channels = int(self.compress.out_channels)  # pyright: ignore[reportArgumentType]
        self.early_head = nn.Conv2d(channels, classes, 1) if supervise_compression else None
        grid = tile // card.multiple * (self.compress.side if isinstance(self.compress, Mosaic) else 1)
        self.image_encoder = ImageEncoder(
            channels=channels,
            grid=grid,
            patch=size.patch,
            width=size.width,
            blocks=size.blocks,
            heads=size.heads,
            global_blocks=size.global_blocks,
            window=size.window,
            embedding=size.embedding,
            drop_path=drop_path,
        )
        self.prompt_encoder = PromptEncoder(
            embed_dim=size.embedding,
            image_embedding_size=(grid, grid),
            input_image_size=(grid * card.multiple, grid * card.multiple),
            mask_in_chans=16,
        )
        self.mask_decoder = MaskDecoder(
            num_multimask_outputs=max(size.multimask, classes - 1, CANDIDATES if multimask else 0),
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=size.embedding, num_heads=size.decoder_heads, mlp_dim=size.decoder_mlp
            ),
            transformer_dim=size.embedding,
            iou_head_hidden_dim=size.embedding,
        )
        nn.init.trunc_normal_(self.image_encoder.pos_embed, std=0.02)
        self.multimask = multimask
        self.read_tokens = range(1, 1 + CANDIDATES) if multimask else range(classes)
        self._freeze_unused()

    def _freeze_unused(self) -> None:
        """Without a prompt, and with one mask token for each output, these never see a gradient."""
        networks = self.mask_decoder.output_hypernetworks_mlps
        for part in (
            self.prompt_encoder.point_embeddings,
            self.prompt_encoder.not_a_point_embed,
            self.prompt_encoder.mask_downscaling,
            *(network for token, network in enumerate(networks) if token not in self.read_tokens),
        ):
            part.requires_grad_(False)

    def encode(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> image embedding (B, E, H/patch, W/patch)."""
        return self.image_encoder(image)

    def embed(self, volume: Tensor) -> Tensor:
        """(B, 1, D, H, W) -> embedding (B, E, h, w), to be decoded with as many prompts as one likes."""
        return self._embed(self.compress(volume))

    def _embed(self, image: Tensor) -> Tensor:
        embedding = self.encode(image)
        return self.compress.fuse(embedding) if isinstance(self.compress, Triples) else embedding

    def decode(
        self,
        embedding: Tensor,
        *,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Image embedding (B, E, h, w) -> mask logits (B, M, 4h, 4w), predicted IoU (B, M), unbounded.

        M is the number of classes, or 3 with `multimask`. Any prompts may be given together, none is as good; one set
        an image. For several on one image, expand its embedding. With the mosaic, the image is the mosaic.

        Args:
            points: (B, P, 2) x and y in px of the tile, with labels (B, P): 1 ink, 0 no ink, -1 not a point.
            boxes: (B, 4) or (B, K, 4), x0, y0, x1, y1 in px.
            masks: (B, 1, 4h, 4w) logits, as this function gives them.

        Raises:
            ValueError: shapes that do not belong together.
        """
        decoder = self.mask_decoder
        batch, _, height, width = embedding.shape
        prompts, dense = embed_prompts(
            self.prompt_encoder,
            side=(height * self.multiple, width * self.multiple),
            grid=(height, width),
            batch=batch,
            points=points,
            labels=labels,
            boxes=boxes,
            masks=masks,
        )
        position = grid_position(height, width, frequencies_of(self.prompt_encoder)).expand(batch, -1, -1, -1)
        outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(batch, -1, -1)
        tokens, source = decoder.transformer(embedding + dense, position, torch.cat([outputs, prompts], dim=1))
        pixels = decoder.output_upscaling(source.transpose(1, 2).reshape(batch, -1, height, width))
        weights = torch.stack(
            [decoder.output_hypernetworks_mlps[token](tokens[:, 1 + token]) for token in self.read_tokens], dim=1
        )
        answers = torch.einsum("bce,behw->bchw", weights, pixels)
        first = self.read_tokens.start
        return answers, decoder.iou_prediction_head(tokens[:, 0])[:, first : first + len(self.read_tokens)]

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        """(B, 1, D, H, W) -> logits [(B, C, 4h, 4w)] on the grid h, w of patches; aux `iou` (B, C), unbounded.

        With `supervise_compression` a second entry is read off the compressed image, at that image's resolution. With
        `multimask` the logits are those of the candidate whose predicted IoU is highest, in training too, and aux has
        all of them: `masks` (B, 3, 4h, 4w) and `iou` (B, 3).
        """
        image = self.compress(volume)
        masks, iou = self.decode(self._embed(image))
        if isinstance(self.compress, Mosaic):
            masks = self.compress.gather(masks)
        aux = {"iou": iou}
        if self.multimask:
            aux["masks"] = masks
            masks = masks.take_along_dim(iou.argmax(dim=1)[:, None, None, None], dim=1)
        early = [] if self.early_head is None else [self.early_head(image)]
        return Heads([masks, *early], aux)

    def tune(self, tuning: str, *, rank: int = 4, blocks: Sequence[int] | None = None, decoder: bool = True) -> None:
        """Freeze what is not trained: see `tuning` and the `lora_` options on the card.

        What makes an image of the layers is always trained, the inflated patch embedding too: nothing knew ink CT
        before. So is the decoder, unless `decoder` is False with lora.

        Raises:
            ValueError: no such tuning, rank or block.
        """
        if tuning not in TUNINGS:
            raise ValueError(f"{self.card.name}: tuning {tuning!r} is not possible; there are {', '.join(TUNINGS)}")
        if tuning == "full":
            return
        self.image_encoder.requires_grad_(False)
        if isinstance(self.compress, Inflated):
            self.image_encoder.patch_embed.requires_grad_(True)
        if tuning == "decoder":
            return
        all_blocks = range(self.size.blocks)
        for index in all_blocks if blocks is None else blocks:
            if index not in all_blocks:
                raise ValueError(f"{self.card.name}: lora_blocks {index} is not possible; 0 to {self.size.blocks - 1}")
            self.image_encoder.attention(index).add_lora(rank)
        if not decoder:
            self.mask_decoder.requires_grad_(False)
            self.prompt_encoder.requires_grad_(False)

    def merge_lora(self) -> None:
        """Fold the low-rank factors into the encoder: the same answers from a model that is as one without LoRA.

        Such a model is saved with options that do not name `tuning`.
        """
        for index in range(self.size.blocks):
            self.image_encoder.attention(index).merge_lora()

    def learning_rate_scales(self, decay: float) -> dict[str, float]:
        """`decay` to the power of the blocks behind a parameter of the encoder, its neck counted as one; as in ViTDet.

        The patch embedding and positions lie before all blocks. Compression, decoder and LoRA's factors have 1: they
        are new.
        """
        layers = {"patch_embed": 0, "pos_embed": 0}
        scales = {}
        for name, _ in self.image_encoder.named_parameters():
            part, *rest = name.split(".")
            if "lora" in name:
                continue
            layer = int(rest[0]) + 1 if part == "blocks" else layers.get(part, self.size.blocks + 1)
            scales[f"image_encoder.{name}"] = decay ** (self.size.blocks + 1 - layer)
        return scales

    def no_weight_decay(self) -> set[str]:
        """Positions, tokens and embeddings, as ViT recipes have it."""
        exempt = ("pos_embed", "rel_pos", "_token", "_tokens", "no_mask_embed", "not_a_point_embed", "point_embeddings")
        return {name for name, _ in self.named_parameters() if any(part in name for part in exempt)}

    def shard_units(self) -> list[nn.Module]:
        """The blocks of the ViT. Of the decoder, which is small, single weights are read."""
        return list(self.image_encoder.blocks)

    def fit_tensor(self, key: str, tensor: Tensor, own: Tensor) -> Tensor:
        """Positions are resized to this model's tile."""
        return fit_positions(key, tensor, own)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.image_encoder.grad_checkpointing = enable

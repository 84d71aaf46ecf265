"""SAM's image encoder: a ViT with windows and decomposed relative positions, in a fraction of the memory.

    image (B, C, H, W) -> patches + position (B, h, w, E) -> blocks, most of them in windows, some global
      -> neck (B, O, h, w)

The scores of its attention are q·k/√d plus two logits of the query, one for the row distance and one for the column
distance to the key. Written as one inner product of longer vectors,

    [q, q·R_row/s, q·R_column/s] · [k, one-hot row, one-hot column] · s      with s = 1/√d,

they are plain `scaled_dot_product_attention`, exactly, and no matrix of all pairs is ever held; the library adds a
bias of that size to one. Memory of a global block grows with N·(d + h + w) instead of N².

Parameters are named, shaped and drawn as in segment_anything's `ImageEncoderViT`, so official weights fit key by key.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import LayerNorm2d, MLPBlock
from segment_anything.modeling.image_encoder import PatchEmbed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.models.layers import in_full
from zoo.models.lora import LowRank

_ALIGNMENT = 8  # lengths of vectors that attention kernels take without copying


class ImageEncoder(nn.Module):
    """(B, channels, H, W) -> (B, embedding, H/patch, W/patch), H and W any multiples of the patch.

    Args:
        grid: patches along a side of the tile, which positions are held for; other sizes get them resized.
        global_blocks: indices of the blocks that attend over the whole grid; the others do in windows of `window`
            patches, zero-padded at the end of a row and column.
        drop_path: chance that a sample skips a branch of the last block in training; falls linearly to 0 at the first.
    """

    def __init__(
        self,
        *,
        channels: int,
        grid: int,
        patch: int,
        width: int,
        blocks: int,
        heads: int,
        global_blocks: tuple[int, ...],
        window: int,
        embedding: int,
        drop_path: float = 0.0,
    ):
        super().__init__()
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path {drop_path} is not possible; from 0 (none) to below 1")
        self.patch_embed = PatchEmbed((patch, patch), (patch, patch), in_chans=channels, embed_dim=width)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, width))
        self.blocks = nn.ModuleList(
            Block(
                width,
                heads,
                window=0 if index in global_blocks else window,
                grid=grid,
                drop_path=drop_path * index / max(1, blocks - 1),
            )
            for index in range(blocks)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(width, embedding, 1, bias=False),
            LayerNorm2d(embedding),
            nn.Conv2d(embedding, embedding, 3, padding=1, bias=False),
            LayerNorm2d(embedding),
        )
        self.grad_checkpointing = False

    def forward(self, image: Tensor) -> Tensor:
        tokens = embed_patches(image, self.patch_embed.proj)
        tokens = tokens + resize_grid(self.pos_embed, tokens.shape[1], tokens.shape[2])
        for block in self.blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return self.neck(tokens.permute(0, 3, 1, 2))

    def attention(self, index: int) -> Attention:
        """That of the block at `index`."""
        return cast(Block, self.blocks[index]).attn


def embed_patches(image: Tensor, proj: nn.Conv2d) -> Tensor:
    """(B, C, H, W) -> (B, h, w, E): what the convolution `proj`, whose stride is its kernel, says of each patch.

    As a matrix product, for in bf16 on some CPUs (torch 2.15 with AMX) that convolution's answer is wrong for small
    images of several channels.
    """
    side = proj.kernel_size[0]
    batch, channels, height, width = image.shape
    patches = image.reshape(batch, channels, height // side, side, width // side, side)
    patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)
    bias = None if proj.bias is None else in_full(proj.bias)
    return F.linear(patches, in_full(proj.weight).flatten(1), bias)


class Block(nn.Module):
    """Attention and an MLP, each behind a LayerNorm and beside a shortcut: (B, h, w, E) -> the same."""

    def __init__(self, width: int, heads: int, *, window: int, grid: int, drop_path: float):
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.norm1 = norm(width)
        self.attn = Attention(width, heads, side=window or grid)
        self.norm2 = norm(width)
        self.mlp = MLPBlock(width, 4 * width)
        self.window = window
        self.drop_path = drop_path

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self._kept(self._attend(self.norm1(tokens)))
        return tokens + self._kept(self.mlp(self.norm2(tokens)))

    def _attend(self, tokens: Tensor) -> Tensor:
        if self.window == 0:
            return self.attn(tokens)
        batch, height, width, _ = tokens.shape
        return from_windows(self.attn(to_windows(tokens, self.window)), batch, height, width)

    def _kept(self, branch: Tensor) -> Tensor:
        """The branch, left out for a random part of the samples and scaled up for the others, in training."""
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        return branch * branch.new_empty(branch.shape[0], 1, 1, 1).bernoulli_(keep).div_(keep)


class Attention(nn.Module):
    """Self-attention of every token of a grid or window with all others: (B, h, w, E) -> the same.

    `side` is the grid that relative positions are held for. `lora_q` and `lora_v` are what `add_lora` puts beside the
    frozen projection.
    """

    def __init__(self, width: int, heads: int, *, side: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, width // heads))
        self.lora_q: LowRank | None = None
        self.lora_v: LowRank | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        batch, height, width, channels = tokens.shape
        query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        if self.lora_q is not None:
            query = query + self.lora_q(tokens)
        if self.lora_v is not None:
            value = value + self.lora_v(tokens)
        query, key, value = (
            part.reshape(batch, height * width, self.heads, -1).transpose(1, 2) for part in (query, key, value)
        )
        relative = relative_logits(query, self.rel_pos_h, self.rel_pos_w, height, width)
        length = query.shape[-1]
        query = padded(torch.cat([query, relative], dim=-1))
        key = padded(torch.cat([key, one_hot_places(height, width, key).expand(*key.shape[:2], -1, -1)], dim=-1))
        if value.device.type == "cpu":  # its kernel wants values as long as queries; a GPU's do not
            value = F.pad(value, (0, query.shape[-1] - length))
        # whatever its length now, a score is scaled by that of the true query
        answer = F.scaled_dot_product_attention(query, key, value, scale=length**-0.5)[..., :length]
        return self.proj(answer.transpose(1, 2).reshape(batch, height, width, channels))

    def add_lora(self, rank: int) -> None:
        """Put low-rank factors beside the query's and the value's part of `qkv`: 4·rank·width parameters."""
        width = self.qkv.in_features
        self.lora_q, self.lora_v = LowRank(width, width, rank), LowRank(width, width, rank)

    @torch.no_grad()
    def merge_lora(self) -> None:
        """Add the factors' products to `qkv` and remove them; the answers stay the same."""
        width = self.qkv.in_features
        for lora, first in ((self.lora_q, 0), (self.lora_v, 2 * width)):
            if lora is not None:
                self.qkv.weight[first : first + width] += lora.product()
        self.lora_q = self.lora_v = None


def relative_logits(query: Tensor, rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """What each query adds to the scores of a row and of a column of keys, times √d: (B, heads, N, height + width).

    Args:
        query: (B, heads, N, d), N = height·width.
        rows, columns: relative positions (2n - 1, d), resized where the grid is not of n; entry i - j + n - 1 is that
            of a query at i and a key at j.

    In float32 under autocast too: only the finished logits are rounded, once.
    """
    batch, heads, _, length = query.shape
    with full_precision(query.device):
        # a copy of its own: a view would keep all of q, k and v for the backward pass
        grid = query.float().contiguous().view(batch, heads, height, width, length)
        along_y = by_distance(rows.float(), height)
        along_x = by_distance(columns.float(), width)
        to_rows = torch.einsum("bnyxd,yjd->bnyxj", grid, along_y)
        to_columns = torch.einsum("bnyxd,xjd->bnyxj", grid, along_x)
        logits = torch.cat([to_rows, to_columns], dim=-1).flatten(2, 3) * length**0.5
    return logits.to(query.dtype)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast is off inside; the meta device, which computes nothing, knows of none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def by_distance(position: Tensor, side: int) -> Tensor:
    """Relative positions (2n - 1, d) -> (side, side, d): that of a query at i and a key at j."""
    position = resize_relative(position, 2 * side - 1)
    place = torch.arange(side, device=position.device)
    return position[place[:, None] - place + side - 1]


def one_hot_places(height: int, width: int, like: Tensor) -> Tensor:
    """(N, height + width): each key's row and column as one-hot codes, in the dtype and on the device of `like`."""
    rows = torch.eye(height, dtype=like.dtype, device=like.device).repeat_interleave(width, dim=0)
    columns = torch.eye(width, dtype=like.dtype, device=like.device).repeat(height, 1)
    return torch.cat([rows, columns], dim=1)


def padded(vectors: Tensor) -> Tensor:
    """(…, L) -> (…, L'): zeros up to a length that kernels like; an inner product does not see them."""
    return F.pad(vectors, (0, -vectors.shape[-1] % _ALIGNMENT))


def to_windows(tokens: Tensor, window: int) -> Tensor:
    """(B, h, w, E) -> (B·windows, window, window, E), zero-padded at the end of rows and columns."""
    tokens = F.pad(tokens, (0, 0, 0, -tokens.shape[2] % window, 0, -tokens.shape[1] % window))
    batch, height, width, channels = tokens.shape
    tiled = tokens.reshape(batch, height // window, window, width // window, window, channels)
    return tiled.transpose(2, 3).reshape(-1, window, window, channels)


def from_windows(windows: Tensor, batch: int, height: int, width: int) -> Tensor:
    """The inverse of `to_windows`: (B·windows, window, window, E) -> (B, height, width, E)."""
    window, channels = windows.shape[1], windows.shape[3]
    rows, columns = -(-height // window), -(-width // window)
    tiled = windows.reshape(batch, rows, columns, window, window, channels).transpose(2, 3)
    return tiled.reshape(batch, rows * window, columns * window, channels)[:, :height, :width]


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

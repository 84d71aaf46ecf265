"""Prompts for SAM's mask decoder: points, boxes and masks become tokens and a dense embedding.

Computed with the weights of segment_anything's `PromptEncoder`, to the same values, but for a batch of images of any
size, without assignments at data-dependent places (which keep `torch.compile` from tracing it whole), and without a
matrix product: autocast would round the angles, which reach tens of radians, and scramble the finer half of the
encoding.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from segment_anything.modeling import PromptEncoder
from torch import Tensor


def embed_prompts(
    encoder: PromptEncoder,
    *,
    side: tuple[int, int],
    grid: tuple[int, int],
    batch: int,
    points: Tensor | None = None,
    labels: Tensor | None = None,
    boxes: Tensor | None = None,
    masks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Prompts of a batch of images -> tokens (B, N, E) and dense embedding (B, E, h, w) or (1, E, 1, 1).

    Args:
        side: (H, W) of the image in px, which coordinates are relative to.
        grid: (h, w) of the image embedding.
        points: (B, P, 2) x and y in px, with labels (B, P): 1 ink, 0 no ink, -1 not a point (to fill up a batch).
        boxes: (B, 4) or (B, K, 4), x0, y0, x1, y1 in px.
        masks: (B, 1, 4h, 4w) logits, such as those of an earlier prediction.

    Raises:
        ValueError: shapes that do not belong together.
    """
    _check(batch, grid, points, labels, boxes, masks)
    frequencies = frequencies_of(encoder)
    # of a point that is no ink, one that is, a box's first and its second corner
    kinds = [cast(Tensor, embedding.weight) for embedding in encoder.point_embeddings]
    tokens = [frequencies.new_zeros(batch, 0, 2 * frequencies.shape[1])]
    if points is not None and labels is not None:
        if boxes is None:  # SAM was trained with a token that is no point where there is no box
            points, labels = F.pad(points, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)
        place, kind = position(points.float() + 0.5, side, frequencies), labels[..., None]
        place = torch.where(kind == -1, encoder.not_a_point_embed.weight, place)
        place = place + torch.where(kind == 1, kinds[1], torch.where(kind == 0, kinds[0], 0.0))
        tokens.append(place)
    if boxes is not None:
        corners = boxes.float().reshape(batch, -1, 2, 2) + 0.5
        tokens.append((position(corners, side, frequencies) + torch.cat(kinds[2:])).flatten(1, 2))
    if masks is None:
        dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    else:
        dense = encoder.mask_downscaling(masks)
    return torch.cat(tokens, dim=1), dense


def frequencies_of(encoder: PromptEncoder) -> Tensor:
    """(2, E/2): the random frequencies for x and y."""
    return cast(Tensor, encoder.pe_layer.positional_encoding_gaussian_matrix)


def position(places: Tensor, side: tuple[int, int], frequencies: Tensor) -> Tensor:
    """x and y in px of an image (H, W) -> sines and cosines: (…, 2) -> (…, E)."""
    height, width = side
    x, y = places[..., :1] * (2 / width) - 1, places[..., 1:] * (2 / height) - 1
    along_x, along_y = frequencies * (2 * math.pi)
    angles = x * along_x + y * along_y
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def grid_position(height: int, width: int, frequencies: Tensor) -> Tensor:
    """The same encoding of the centre of every cell of a grid: (1, E, height, width)."""
    y = (torch.arange(height, device=frequencies.device) + 0.5) * (2 / height) - 1
    x = (torch.arange(width, device=frequencies.device) + 0.5) * (2 / width) - 1
    along_x, along_y = (frequencies * (2 * math.pi))[:, :, None, None]
    angles = along_x * x + along_y * y[:, None]
    return torch.cat([angles.sin(), angles.cos()]).unsqueeze(0)


def _check(
    batch: int,
    grid: tuple[int, int],
    points: Tensor | None,
    labels: Tensor | None,
    boxes: Tensor | None,
    masks: Tensor | None,
) -> None:
    if (points is None) != (labels is None):
        raise ValueError("points and labels go together: a label for each point, 1 for ink and 0 for no ink")
    if points is not None and labels is not None:
        number = labels.shape[-1]
        if points.shape != (batch, number, 2) or labels.shape != (batch, number):
            raise ValueError(
                f"got points {tuple(points.shape)} and labels {tuple(labels.shape)}, "
                f"expected ({batch}, P, 2) and ({batch}, P)"
            )
    if boxes is not None and (boxes.shape[0] != batch or boxes.shape[-1] != 4 or boxes.ndim > 3):
        raise ValueError(f"got boxes {tuple(boxes.shape)}, expected ({batch}, 4) or ({batch}, K, 4): x0, y0, x1, y1")
    wanted = (batch, 1, 4 * grid[0], 4 * grid[1])
    if masks is not None and tuple(masks.shape) != wanted:
        raise ValueError(f"got masks {tuple(masks.shape)}, expected {wanted}: logits as a decoder gives them")

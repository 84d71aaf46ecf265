"""Losses of what a model predicts besides its masks: its own IoU, and whether the tile holds ink at all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.losses.cells import pool_to
from zoo.models.base import Heads


def iou_loss(heads: Heads, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of the predicted IoU `aux["iou"]`, over tiles with a supervised pixel and their masks.

    It is about `aux["masks"]` where there are any, else about the first logits. The actual IoU has no gradient.

    Args:
        heads: aux `iou` (B, C), or (B, M) beside `masks` (B, M, h, w).
        target: (B, C, H, W) one-hot, zero outside the mask.
        mask: (B, 1, H, W) bool.
    """
    masks = heads.aux.get("masks", heads.logits[0])
    predicted = heads.aux["iou"]
    if predicted.shape != masks.shape[:2]:
        raise ValueError(
            f"got aux['iou'] of shape {tuple(predicted.shape)}, expected {tuple(masks.shape[:2])}: one for every mask"
        )
    error = (predicted.float() - actual_iou(masks, target, mask)) ** 2
    return _mean_over_tiles(error.mean(dim=1), mask)


@torch.no_grad()
def actual_iou(logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """IoU of each mask with the label, over supervised pixels; 1 where both are empty.

    Cells are counted by their share of ink, so that a coarse mask has the IoU of its enlargement.

    Args:
        logits: (B, M, h, w), each thresholded at probability .5, when target has one channel; (B, C, h, w), of which
            the largest holds, when it has more.
        target: (B, C, H, W) one-hot, zero outside the mask.
        mask: (B, 1, H, W) bool.

    Returns:
        (B, M) or (B, C).
    """
    share, counted = pool_to(target, mask, logits.shape[-2:])
    if target.shape[1] == 1:
        found = (logits > 0) & counted
    else:
        found = F.one_hot(logits.argmax(dim=1), logits.shape[1]).movedim(-1, 1).bool() & counted
    both = torch.where(found, share, 0.0).sum(dim=(2, 3))
    either = found.sum(dim=(2, 3)) + share.sum(dim=(2, 3)) - both
    return torch.where(either > 0, both / either.clamp_min(1e-6), 1.0)


def presence_loss(heads: Heads, target: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy of `aux["presence"]`, (B, 2) logits of no ink and ink, over tiles with a supervised pixel.

    A tile holds ink where any supervised pixel does. Softmax, where U-Net3+ takes a sigmoid of each: no ink and ink
    exclude each other, and our gate multiplies by the softmax's probability.
    """
    presence = heads.aux["presence"]
    if presence.shape != (len(target), 2):
        raise ValueError(f"got aux['presence'] of shape {tuple(presence.shape)}, expected ({len(target)}, 2)")
    ink = target if target.shape[1] == 1 else target[:, 1:]
    holds = (ink > 0).flatten(1).any(dim=1).long()
    return _mean_over_tiles(F.cross_entropy(presence.float(), holds, reduction="none"), mask)


def _mean_over_tiles(values: Tensor, mask: Tensor) -> Tensor:
    """(B,) -> the mean over the tiles with a supervised pixel, 0 if there is none."""
    supervised = mask.flatten(1).any(dim=1)
    return torch.where(supervised, values, 0.0).sum() / supervised.sum().clamp_min(1)


AUXILIARY = {"iou": iou_loss, "presence": presence_loss}

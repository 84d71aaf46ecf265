"""Losses that are taken at each head's own size: name and parameters -> a function of `Cells`.

Libraries are imported when a loss is built: they take seconds to load, and a plain BCE needs none of them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from zoo.losses.cells import Cells

PerHead = Callable[[Cells], Tensor]


def bce() -> PerHead:
    """Cross entropy; with several classes the softmax's."""
    return lambda cells: cells.mean(cells.entropy)


def soft_bce(smoothing: float) -> PerHead:
    """Cross entropy with labels from `smoothing` to 1 - `smoothing` (smp's SoftBCEWithLogitsLoss), whatever the other
    losses see. With several classes those that are not there share `smoothing`."""

    def loss(cells: Cells) -> Tensor:
        return cells.mean(cells.entropy_with(smoothing / max(1, cells.classes - 1)))

    return loss


def focal(alpha: float | None, gamma: float) -> PerHead:
    """Lin et al. 2017: cross entropy times (1 - p)^gamma, times `alpha` on ink and 1 - `alpha` on the rest.

    In smp's form, p = exp(-cross entropy): the one whose least value lies at the label when it is soft too. `alpha`
    with several classes as in monai: all but the background are ink.
    """

    def loss(cells: Cells) -> Tensor:
        miss = -torch.expm1(-cells.entropy)
        if gamma < 1:  # the slope of such a power has no bound at 0
            miss = miss.clamp_min(1e-6)
        pixels = cells.entropy * miss**gamma
        if alpha is not None:
            pixels = pixels * (alpha * cells.ink + (1 - alpha) * (1 - cells.ink))
        return cells.mean(pixels)

    return loss


def tversky(alpha: float, beta: float) -> PerHead:
    """Salehi et al. 2017: 1 - TP / (TP + alpha·FP + beta·FN); with 1, 1 Jaccard and with .5, .5 Dice.

    The score is smp's. Its means over the batch are not taken, because a sum over each tile is wanted as well.
    """
    from segmentation_models_pytorch.losses import TverskyLoss

    # 'multilabel' on probabilities is the one mode that takes soft labels, for one class and for several.
    library = TverskyLoss("multilabel", from_logits=False, alpha=alpha, beta=beta)

    def loss(cells: Cells) -> Tensor:
        axes = (2, 3) if cells.each else (0, 2, 3)
        score = library.compute_score(cells.probability, cells.target, eps=library.eps, dims=axes)
        present = cells.target.sum(dim=axes) > 0
        return torch.where(present, 1 - score, 0.0).mean(dim=-1)

    return loss


def lovasz() -> PerHead:
    """Berman et al. 2018, smp's: the hinge on logits with one class, on the softmax of the classes present with more.

    The library takes labels of one class only, so a cell gets the class of its largest share; cells that do not count
    are left out by its `ignore_index`. On tiles without ink the one worst cell alone is trained.
    """
    from segmentation_models_pytorch.losses import LovaszLoss

    library = {many: LovaszLoss("multiclass" if many else "binary", ignore_index=-1) for many in (False, True)}

    def one(logits: Tensor, label: Tensor) -> Tensor:
        if not (label >= 0).any():  # the library answers with no value at all then
            return logits.sum() * 0
        return library[logits.shape[1] > 1](logits, label)

    def loss(cells: Cells) -> Tensor:
        label = torch.where(cells.counted[:, 0], cells.hard, -1)
        if not cells.each:
            return one(cells.logits, label)
        tiles = zip(cells.logits.split(1), label.split(1), strict=True)
        return torch.stack([one(logits, labels) for logits, labels in tiles])

    return loss


def cldice(iterations: int) -> PerHead:
    """Soft clDice (Shit et al. 2021) of the ink: the mean over tiles of 1 - the harmonic mean of how much of the
    predicted skeleton lies in the label and how much of the label's in the prediction.

    The skeletons are monai's, of images that are 0 outside the mask: ink that runs out of it ends there, in label and
    prediction alike. Its loss is not wrapped, since it takes tiles without a supervised cell into its mean. Strokes
    wider than 2·`iterations` cells have no skeleton, which is why it is taken at each head's size.
    """
    from monai.losses.cldice import soft_skel

    def loss(cells: Cells) -> Tensor:
        ink = slice(None) if cells.classes == 1 else slice(1, None)
        found, truth = cells.probability[:, ink], cells.target[:, ink]
        axes = (1, 2, 3)
        thin, thin_truth = soft_skel(found, int(iterations)), soft_skel(truth, int(iterations))
        precision = ((thin * truth).sum(axes) + 1) / (thin.sum(axes) + 1)
        sensitivity = ((thin_truth * found).sum(axes) + 1) / (thin_truth.sum(axes) + 1)
        supervised = cells.counted.flatten(1).any(dim=1)
        tiles = torch.where(supervised, 1 - 2 * precision * sensitivity / (precision + sensitivity), 0.0)
        return tiles if cells.each else tiles.sum() / supervised.sum().clamp_min(1)

    return loss


def boundary() -> PerHead:
    """Kervadec et al. 2019: mean of probability times signed distance to the ink's border, in pixels of the tile.

    Own code: monai's measures to the edge of the mask too. Below 0 at its best, and no use alone, since cells on the
    border weigh nothing; the paper adds it to a region loss at a weight from .01 on. With several classes each but
    the background. A tile all of one class has no border and counts 0.
    """

    def loss(cells: Cells) -> Tensor:
        hard = cells.hard[:, None]
        if cells.classes == 1:
            found, ink = cells.probability, hard == 1
        else:
            found = cells.probability[:, 1:]
            ink = hard == torch.arange(1, cells.classes, device=hard.device)[:, None, None]
        distance = signed_distance(ink, cells.counted) * cells.stride
        return cells.mean((found * distance).mean(dim=1, keepdim=True))

    return loss


@torch.no_grad()
def signed_distance(ink: Tensor, counted: Tensor) -> Tensor:
    """Cells to the nearest ink that counts, and below 0 inside it: 1 minus the cells to the nearest rest that counts.

    Computed by scipy on the CPU: labels are small, and an exact transform on a GPU takes another library or much
    memory.

    Args:
        ink: (B, K, h, w) bool.
        counted: (B, 1, h, w) bool.

    Returns:
        (B, K, h, w) float32; 0 in tiles without ink or without the rest.
    """
    from scipy.ndimage import distance_transform_edt

    is_ink, is_rest = (ink & counted).cpu().numpy(), (~ink & counted).cpu().numpy()
    distance = np.zeros(ink.shape, np.float32)
    for place in np.ndindex(*ink.shape[:2]):
        here, rest = is_ink[place], is_rest[place]
        if here.any() and rest.any():
            outside = distance_transform_edt(~here)
            inside = distance_transform_edt(~rest)
            distance[place] = np.where(here, 1 - inside, outside)  # pyright: ignore[reportOperatorIssue]
    return torch.from_numpy(distance).to(ink.device)


PER_HEAD: dict[str, Callable[..., PerHead]] = {
    "focal": focal,
    "bce": bce,
    "soft_bce": soft_bce,
    "jaccard": lambda: tversky(1.0, 1.0),
    "dice": lambda: tversky(0.5, 0.5),
    "tversky": tversky,
    "lovasz": lovasz,
    "cldice": cldice,
    "boundary": boundary,
}

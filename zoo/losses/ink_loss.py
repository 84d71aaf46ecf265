"""The loss that training calls: the weighted sum of its terms over the heads of a model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.losses.auxiliary import AUXILIARY
from zoo.losses.cells import Cells, pool_to, probability
from zoo.losses.spec import DEFAULT_LOSS, LOSSES, Spec, parse_spec
from zoo.losses.ssim import masked_ms_ssim
from zoo.losses.terms import PER_HEAD
from zoo.models.base import Heads


def make_loss(spec: Spec = DEFAULT_LOSS, *, smoothing: float = 0.0, classes: int = 1) -> InkLoss:
    """A loss from names joined by +, or from a mapping of names.

    Args:
        spec: "focal+jaccard" (each with weight 1), {focal: 20, dice: 1}, {tversky: {weight: 1, alpha: .7, beta: .3}},
            or the name of a preset. Names out of `LOSSES` and `AUX_LOSSES`, parameters out of `PARAMETERS`.
        smoothing: what `focal` and `bce` see instead of 0 (.1: binary labels become .1 and .9; with more classes every
            class that is not there gets it).
        classes: as the model was built.

    Raises:
        ValueError: unknown name or parameter (the nearest is named), bad number, smoothing that turns labels over.
    """
    return InkLoss(spec, smoothing=smoothing, classes=classes)


class InkLoss(nn.Module):
    """`loss(heads, label, mask) -> (total, parts)`; see `make_loss` and the head of the package."""

    def __init__(self, spec: Spec, *, smoothing: float = 0.0, classes: int = 1):
        super().__init__()
        most = 1 / max(2, classes)
        if not 0 <= smoothing < most:
            raise ValueError(
                f"smoothing {smoothing} is not possible with {classes} class(es): from 0 to below {most:g}"
            )
        terms = parse_spec(spec)
        self.weights = {name: term.weight for name, term in terms.items()}
        self.smoothing = smoothing
        self.classes = classes
        self._per_head = {
            name: PER_HEAD[name](**term.parameters) for name, term in terms.items() if name in PER_HEAD and term.weight
        }

    def forward(self, heads: Heads, label: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch.

        Args:
            heads: logits [(B, C, h, w), …], finest first; aux as in `Heads`.
            label: (B, 1, H, W) class index; or, with one class, a float share of ink from 0 to 1.
            mask: (B, 1, H, W) bool, where the label counts.

        Returns:
            The weighted total (scalar, with gradient) and each loss's value before its weight (scalars, without);
            losses of weight 0 are not computed.

        Raises:
            ValueError: shapes that do not belong together, a class index that the model has no channel for, a loss of
                something that the model does not predict.
        """
        self._check(heads, label, mask)
        weights = self._weights(heads)
        with torch.autocast(label.device.type, enabled=False):
            mask = mask.bool()
            target = self._one_hot(label, mask)
            outputs = list(heads.logits)
            if "masks" in heads.aux:
                outputs[0] = self._best_of(heads.aux["masks"], target, mask)
            values: dict[str, Tensor] = {}
            for logits in outputs if self._per_head else ():
                cells = Cells.of(logits, target, mask, smoothing=self.smoothing)
                for name, term in self._per_head.items():
                    values[name] = values.get(name, 0) + term(cells) / len(outputs)
            if "ms_ssim" in weights:
                values["ms_ssim"] = _ms_ssim(outputs[0], target, mask)
            for name, term in AUXILIARY.items():
                if name in weights:
                    values[name] = term(heads, target, mask)
            total = torch.stack([values[name] * weight for name, weight in weights.items()]).sum()
        return total, {name: values[name].detach() for name in weights}

    def _weights(self, heads: Heads) -> dict[str, float]:
        """Name -> weight above 0. What a model predicts besides has weight 1, unless it is named."""
        weights = self.weights | {name: 1.0 for name in AUXILIARY if name in heads.aux and name not in self.weights}
        weights = {name: weight for name, weight in weights.items() if weight}
        for name in weights:
            if name in AUXILIARY and name not in heads.aux:
                offered = ", ".join(key for key in AUXILIARY if key in heads.aux) or "nothing of the kind"
                raise ValueError(
                    f"the loss names {name}, which this model does not predict (it predicts {offered}); leave {name} "
                    "out, or take a model that does"
                )
        return weights

    @torch.no_grad()
    def _choose(self, masks: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """(B, M, h, w) -> (B,): for each tile the mask of the lowest weighted total."""
        totals = []
        for candidate in masks.split(1, dim=1):
            cells = Cells.of(candidate, target, mask, smoothing=self.smoothing, each=True)
            totals.append(torch.stack([self.weights[name] * term(cells) for name, term in self._per_head.items()]))
        return torch.stack(totals).sum(dim=1).argmin(dim=0)

    def _best_of(self, masks: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """(B, M, h, w) -> (B, 1, h, w): of each tile's candidates the one that is trained (SAM's rule)."""
        if self.classes != 1 or masks.ndim != 4 or len(masks) != len(target):
            raise ValueError(
                f"got aux['masks'] of shape {tuple(masks.shape)} and classes={self.classes}; candidates are of one "
                f"class and ({len(target)}, M, h, w)"
            )
        if not self._per_head:
            raise ValueError(
                f"a model with candidates is trained on the best of them, which ms_ssim cannot tell; add one of "
                f"{', '.join(name for name in LOSSES if name in PER_HEAD)}"
            )
        return masks.take_along_dim(self._choose(masks, target, mask)[:, None, None, None], dim=1)

    def _one_hot(self, label: Tensor, mask: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, C, H, W) float32, zero outside the mask."""
        if self.classes == 1:
            ink = label.float().clamp(0, 1) if label.is_floating_point() else (label > 0).float()
            return torch.where(mask, ink, 0.0)
        index = torch.where(mask, label.long(), 0)
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < self.classes:
            raise ValueError(
                f"the label holds class {int(index.max())}, the model has {self.classes} classes "
                f"(0 to {self.classes - 1}); build it with classes={int(index.max()) + 1}"
            )
        return F.one_hot(index[:, 0], self.classes).movedim(-1, 1).float() * mask

    def _check(self, heads: Heads, label: Tensor, mask: Tensor) -> None:
        if label.ndim != 4 or label.shape[1] != 1 or mask.shape != label.shape:
            raise ValueError(
                f"label {tuple(label.shape)} and mask {tuple(mask.shape)} must both be (B, 1, H, W), of one shape"
            )
        for logits in heads.logits:
            if logits.ndim != 4 or logits.shape[:2] != (label.shape[0], self.classes):
                raise ValueError(
                    f"got logits of shape {tuple(logits.shape)}, expected ({label.shape[0]}, {self.classes}, h, w)"
                )


def _ms_ssim(logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """1 - MS-SSIM of the finest head brought to full resolution."""
    logits = logits.float()
    if logits.shape[-2:] != target.shape[-2:]:
        # Only counted cells are mixed, each pixel's weights summing to one again; with all counted this is plain
        # bilinear up-sampling.
        counted = pool_to(target, mask, logits.shape[-2:])[1]
        size = target.shape[-2:]
        share = F.interpolate(counted.float(), size=size, mode="bilinear", align_corners=False)
        logits = F.interpolate(
            torch.where(counted, logits, 0.0), size=size, mode="bilinear", align_corners=False
        ) / share.clamp_min(1e-6)
        mask = mask & (share > 0)
    return 1 - masked_ms_ssim(probability(torch.where(mask, logits, 0.0)), target, mask)

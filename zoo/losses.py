"""Losses by name and weight; each of them ignores what lies outside the supervised papyrus, exactly.

Shapes: B tiles, C classes (1: sigmoid, ink is label > 0; more: softmax, background is class 0), H×W pixels of a tile,
h×w cells of one head. Everything is computed in float32, whatever precision the model runs in.

- Pixel losses (`focal`, `bce`) and region losses (`jaccard`, `dice`) are taken at each head's own size. Labels are
  pooled to it by area over the supervised pixels, so a cell's label is its share of ink; a cell counts where at least
  half of it is supervised. Pixel losses average over the counted cells of the whole batch; region losses sum over them
  before the one division, which keeps tiles without ink from dominating. A class that the batch does not hold
  contributes nothing to a region loss (segmentation_models_pytorch's convention): pixel losses carry empty batches.
- `ms_ssim` is taken at full resolution on the finest head (see `masked_ms_ssim`).
- Deep supervision is the mean over the heads.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.base import Heads

DEFAULT_LOSS = "focal+jaccard+ms_ssim"
FOCAL_GAMMA = 2.0
PIXEL_LOSSES = ("focal", "bce")
REGION_LOSSES = ("jaccard", "dice")
LOSSES = (*PIXEL_LOSSES, *REGION_LOSSES, "ms_ssim")

# Wang, Simoncelli, Bovik 2003: one weight a scale, finest first; C1, C2 for a data range of 1; window 11, sigma 1.5.
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_C1, _C2 = 0.01**2, 0.03**2
_WINDOW, _SIGMA = 11, 1.5
# pytorch_msssim cuts each scale at 0, which silences all the others of that sample whenever a prediction runs against
# its label at one scale, and lets the slope of a power below one grow without bound just above.
_LEAST_SIMILARITY = 1e-4


def make_loss(
    spec: str | Mapping[str, float] = DEFAULT_LOSS,
    *,
    smoothing: float = 0.0,
    classes: int = 1,
) -> InkLoss:
    """A loss from names joined by + ("focal+jaccard", each with weight 1) or a mapping {name: weight}.

    Args:
        spec: names out of `LOSSES`.
        smoothing: what pixel losses see instead of 0 (.1: binary labels become .1 and .9; with more classes every
            class that is not there gets it).
        classes: as the model was built.

    Raises:
        ValueError: unknown name (the nearest is named), bad weight, smoothing that turns labels over.
    """
    return InkLoss(parse_spec(spec), smoothing=smoothing, classes=classes)


def parse_spec(spec: str | Mapping[str, float]) -> dict[str, float]:
    """{name: weight} of a loss written either way; raises ValueError as `make_loss` does."""
    if isinstance(spec, str):
        names = [name.strip() for name in spec.split("+")]
        if len(set(names)) < len(names):
            raise ValueError(f"loss {spec!r} names a loss twice; write weights as a mapping, {{name: weight}}")
        spec = dict.fromkeys(names, 1.0)
    if not spec:
        raise ValueError(f"the loss is empty; allowed: {', '.join(LOSSES)}")
    for name, weight in spec.items():
        if name not in LOSSES:
            near = difflib.get_close_matches(str(name).replace("-", "_").lower(), LOSSES, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"unknown loss {name!r}{hint} (allowed: {', '.join(LOSSES)})")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ValueError(f"loss {name}: weight {weight!r} is not a number from 0 on")
    if not any(spec.values()):
        raise ValueError("the loss has no weight above 0: nothing would be learnt")
    return {name: float(weight) for name, weight in spec.items()}


class InkLoss(nn.Module):
    """`loss(heads, label, mask) -> (total, parts)`; see `make_loss` and the head of this file."""

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        smoothing: float = 0.0,
        classes: int = 1,
    ):
        super().__init__()
        most = 1 / max(2, classes)
        if not 0 <= smoothing < most:
            raise ValueError(
                f"smoothing {smoothing} is not possible with {classes} class(es): from 0 to below {most:g}"
            )
        self.weights = dict(weights)
        self.smoothing = smoothing
        self.classes = classes
        self._region: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}
        if any(name in self.weights for name in REGION_LOSSES):
            # Imported here: the library takes seconds to load, and a plain BCE needs none of it.
            from segmentation_models_pytorch.losses import DiceLoss, JaccardLoss

            # 'multilabel' on probabilities is the one mode that takes soft labels, for one class and for several.
            for name, loss in (("jaccard", JaccardLoss), ("dice", DiceLoss)):
                self._region[name] = loss("multilabel", from_logits=False)

    def forward(self, heads: Heads, label: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch.

        Args:
            heads: logits [(B, C, h, w), …], finest first.
            label: (B, 1, H, W) class index; or, with one class, a float share of ink from 0 to 1.
            mask: (B, 1, H, W) bool, where the label counts.

        Returns:
            The weighted total (scalar, with gradient) and each loss's value before its weight (scalars, without).

        Raises:
            ValueError: shapes that do not belong together, a class index that the model has no channel for.
        """
        self._check(heads, label, mask)
        with torch.autocast(label.device.type, enabled=False):
            mask = mask.bool()
            target = self._one_hot(label, mask)
            values: dict[str, Tensor] = {}
            for logits in heads.logits:
                cells, counted = pool_to(target, mask, logits.shape[-2:])
                for name, value in self._per_head(logits, cells, counted).items():
                    values[name] = values.get(name, 0) + value / len(heads.logits)
            if "ms_ssim" in self.weights:
                values["ms_ssim"] = self._ms_ssim(heads.logits[0], target, mask)
            total = torch.stack([values[name] * weight for name, weight in self.weights.items()]).sum()
        return total, {name: values[name].detach() for name in self.weights}

    def _per_head(self, logits: Tensor, target: Tensor, counted: Tensor) -> dict[str, Tensor]:
        logits = torch.where(counted, logits.float(), 0.0)
        values = {}
        if any(name in self.weights for name in PIXEL_LOSSES):
            entropy = self._entropy(logits, target)
            for name in PIXEL_LOSSES:
                if name in self.weights:
                    # smp's form of the focal loss: the one whose least value lies at the label when it is soft too.
                    pixels = entropy * (-torch.expm1(-entropy)) ** FOCAL_GAMMA if name == "focal" else entropy
                    values[name] = masked_mean(pixels, counted)
        for name, loss in self._region.items():
            if name in self.weights:
                probability = torch.where(counted, self._probability(logits), 0.0)
                values[name] = loss(probability, target)
        return values

    def _entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """(B, C, h, w) logits and shares -> (B, 1, h, w) cross entropy with the smoothed label."""
        target = target * (1 - max(2, self.classes) * self.smoothing) + self.smoothing
        if self.classes == 1:
            return F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return F.cross_entropy(logits, target, reduction="none")[:, None]

    def _probability(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.classes == 1 else logits.softmax(1)

    def _ms_ssim(self, logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
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
        probability = self._probability(torch.where(mask, logits, 0.0))
        return 1 - masked_ms_ssim(probability, target, mask)

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


def pool_to(target: Tensor, mask: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Labels and mask at a head's size.

    Args:
        target: (B, C, H, W) float, zero outside the mask.
        mask: (B, 1, H, W) bool.
        size: (h, w).

    Returns:
        (B, C, h, w) share of each class among a cell's supervised pixels, zero in cells that do not count, and
        (B, 1, h, w) bool, the cells that count: at least half supervised.
    """
    if tuple(size) == tuple(target.shape[-2:]):
        return target, mask
    height, width = size
    supervised = F.adaptive_avg_pool2d(mask.float(), (height, width))
    counted = supervised >= 0.5
    share = F.adaptive_avg_pool2d(target, (height, width)) / supervised.clamp_min(0.5)
    return torch.where(counted, share, 0.0), counted


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` holds; 0 where it holds nowhere."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp_min(1)


def masked_ms_ssim(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Multi-scale structural similarity of the supervised part, from 0 to 1.

    Both images are set to 0 outside the mask, and each window counts by its share of supervised pixels, at every
    scale; so nothing outside has any influence, and equal padding does not flatter the score. Samples without a
    supervised pixel are left out (1 when there is no other). With a full mask this is pytorch_msssim's value, save
    that no scale falls below 1e-4; the library itself cannot leave pixels out, and a sample has no gradient there once
    one scale runs against its label. Five scales down to 33 px, with the largest odd window up to 11 that the coarsest
    scale holds (11 from 161 px on); one scale below.

    Args:
        prediction, target: (B, C, H, W) float from 0 to 1.
        mask: (B, 1, H, W) bool.
    """
    x, y, weight = torch.where(mask, prediction, 0.0), torch.where(mask, target, 0.0), mask.float()
    scales, window = ssim_plan(min(x.shape[-2:]))
    similarity = x.new_ones(x.shape[:2])
    for scale in range(scales):
        luminance, structure = _ssim_maps(x, y, window)
        last = scale == scales - 1
        value = _window_mean(luminance * structure if last else structure, _blur(weight, window))
        if scales == 1:
            similarity = value
            break
        similarity = similarity * value.clamp_min(_LEAST_SIMILARITY) ** _SCALE_WEIGHTS[scale]
        if not last:
            padding = [side % 2 for side in x.shape[-2:]]
            x, y = (F.avg_pool2d(image, 2, padding=padding) for image in (x, y))
            weight = F.avg_pool2d(weight, 2, padding=padding, count_include_pad=False)
    supervised = mask.flatten(1).any(1)[:, None]
    count = supervised.sum() * similarity.shape[1]
    total = torch.where(supervised, similarity, 0.0).sum() / count.clamp_min(1)
    return torch.where(count > 0, total, 1.0)


def ssim_plan(side: int) -> tuple[int, int]:
    """(scales, window) for a tile whose smaller side is `side` px."""
    window = min(_WINDOW, _odd((side - 1) // 16 + 1))
    return (len(_SCALE_WEIGHTS), window) if window >= 3 else (1, min(_WINDOW, _odd(side)))


def _odd(number: int) -> int:
    return number - 1 + number % 2


def _ssim_maps(x: Tensor, y: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """(luminance, contrast × structure) of every window that lies inside."""
    mean_x, mean_y = _blur(x, window), _blur(y, window)
    # A variance is never negative but its rounding error can be, and C2 is small.
    var_x = (_blur(x * x, window) - mean_x**2).clamp_min(0)
    var_y = (_blur(y * y, window) - mean_y**2).clamp_min(0)
    cov = _blur(x * y, window) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return luminance, (2 * cov + _C2) / (var_x + var_y + _C2)


def _blur(image: Tensor, window: int) -> Tensor:
    """(…, H, W) -> (…, H-window+1, W-window+1): Gaussian means, as two products with band matrices (on a CPU ten
    times as fast as a convolution of one channel, and on a GPU not in TF32, which is too coarse for variances)."""
    height, width = image.shape[-2:]
    return _band(height, window, image) @ image @ _band(width, window, image).T


def _band(side: int, window: int, like: Tensor) -> Tensor:
    """(side-window+1, side): row i holds the window's weights from column i on."""
    offset = torch.arange(window, device=like.device, dtype=like.dtype) - window // 2
    kernel = torch.exp(-(offset**2) / (2 * _SIGMA**2))
    rows = side - window + 1
    # Rows written one entry too long and read back at their own length start one entry further right each.
    band = like.new_zeros(rows, side + 1)
    band[:, :window] = kernel / kernel.sum()
    return band.view(-1)[: rows * side].view(rows, side)


def _window_mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum((-2, -1)) / weight.sum((-2, -1)).clamp_min(1e-12)

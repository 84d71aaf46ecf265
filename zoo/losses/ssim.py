"""Multi-scale structural similarity over the supervised part of a tile."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Wang, Simoncelli, Bovik 2003: one weight a scale, finest first; C1, C2 for a data range of 1; window 11, sigma 1.5.
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_C1, _C2 = 0.01**2, 0.03**2
_WINDOW, _SIGMA = 11, 1.5
# pytorch_msssim cuts each scale at 0, which silences all the others of that sample whenever a prediction runs against
# its label at one scale, and lets the slope of a power below one grow without bound just above.
_LEAST_SIMILARITY = 1e-4


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

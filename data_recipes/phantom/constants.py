"""Noise of real CT, measured once by `benchmarks/measure_phantom_constants.py` on the middle layers of a real tile.

Source: PHerc. Paris 4, segment 20231005123335, 2000×2000×13 voxels of 7.91 µm, uint8 (EduceLab-Scrolls; Parsons,
Parker, Chapman, Hayashida, Seales 2023, arXiv:2304.02084). Only these figures are kept.
"""

from __future__ import annotations

FREQUENCY = (
    0.0035, 0.0075, 0.015, 0.03, 0.05, 0.07, 0.09, 0.125, 0.175, 0.225, 0.275, 0.325, 0.375, 0.425, 0.475,
)  # fmt: skip
"""Cycles a pixel, in the plane."""

POWER = (
    207.0, 79.9, 22.2, 4.2, 1.0, 0.335, 0.154, 0.053, 0.0128, 0.00383, 0.00155, 0.000794, 0.000493, 0.000353, 0.000292,
)  # fmt: skip
"""Power density at these frequencies, relative to that at 0.05 cycles a pixel."""

BANDS = (0.02, 0.05, 0.1, 0.2, 0.3)
"""Where one band of in-plane frequency ends and the next begins, cycles a pixel."""

Z_CORRELATION = (
    (0.935, 0.762, 0.528, 0.288, 0.084, -0.065),
    (0.895, 0.629, 0.309, 0.034, -0.148, -0.236),
    (0.887, 0.617, 0.326, 0.11, -0.008, -0.052),
    (0.871, 0.605, 0.345, 0.169, 0.074, 0.029),
    (0.711, 0.382, 0.147, 0.046, 0.011, -0.002),
    (0.353, 0.089, 0.015, 0.002, 0.002, 0.0),
)
"""Correlation between layers 1, 2 … 6 apart, for each band of in-plane frequency."""

MEAN, STD = 118.0, 47.1
"""Grey values of the real tile's middle layers; the phantom's are like them, not fitted to them."""

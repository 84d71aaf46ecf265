"""Noise of real CT, measured once by `benchmarks/measure_phantom_constants.py` on 2000×2000×13 voxels of a scroll.

Source: PHerc. Paris 4, segment 20231005123335, 7.91 µm, uint8 (EduceLab-Scrolls). Only these figures are kept.
"""

from __future__ import annotations

FREQUENCY = (0.003, 0.007, 0.015, 0.030, 0.050, 0.070, 0.090, 0.125, 0.175, 0.225, 0.275, 0.325, 0.375, 0.425, 0.475)
"""Cycles a pixel, in the plane."""

POWER = (207.2, 80.1, 22.3, 4.21, 1.0, 0.336, 0.154, 0.0531, 0.0129, 3.84e-3, 1.55e-3, 7.96e-4, 4.94e-4, 3.54e-4, 2.93e-4)
"""Power density, relative to that at 0.05 cycles a pixel."""

BANDS = (0.02, 0.05, 0.10, 0.20, 0.30)
"""Upper ends of the bands of in-plane frequency but the last, cycles a pixel."""

Z_CORRELATION = (
    (0.941, 0.783, 0.568, 0.338, 0.128, -0.044),
    (0.907, 0.668, 0.375, 0.110, -0.082, -0.196),
    (0.904, 0.666, 0.395, 0.179, 0.046, -0.016),
    (0.896, 0.670, 0.428, 0.239, 0.115, 0.042),
    (0.774, 0.469, 0.225, 0.091, 0.028, 0.004),
    (0.507, 0.174, 0.043, 0.010, 0.001, -0.001),
)
"""Correlation between layers 1, 2, … 6 apart, for each band of in-plane frequency."""

MEAN, STD = 117.0, 47.0
"""Grey values of the real tile's middle layers."""

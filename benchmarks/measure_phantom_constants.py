"""Measures the noise of a real surface volume: the constants of `data_recipes/phantom/constants.py`.

    python benchmarks/measure_phantom_constants.py ../shared/data/scroll1_tile

Reads the layers of a scroll segment (uint8 TIFF, FOLDER/layers/*.tif) and prints Python: the in-plane power density by
frequency, the correlation between layers by lag for each band of in-plane frequency, and the mean and deviation of the
grey values. A minute on two cores; nothing is written.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import tifffile

EDGES = (0.002, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
"""Bounds of the bins of the spectrum, cycles a pixel."""
REFERENCE = (0.04, 0.06)
"""The bin whose power counts as 1."""
BANDS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Bounds of the bands of the correlation over Z."""
WINDOW = 1000
LAGS = 6


def read_layers(folder: Path) -> np.ndarray:
    """(Z,H,W) uint8 layers of a segment; ValueError where there are too few or too small ones."""
    files = sorted((folder / "layers").glob("*.tif"))
    if len(files) <= LAGS:
        raise ValueError(f"{folder}/layers holds {len(files)} TIFF layers: expected at least {LAGS + 1}")
    volume = np.stack([tifffile.imread(file) for file in files])
    if min(volume.shape[1:]) < WINDOW:
        raise ValueError(f"layers of {volume.shape[1:]} px: expected at least {WINDOW} px on either side")
    return volume


def spectra(volume: np.ndarray) -> np.ndarray:
    """(windows, Z, WINDOW, WINDOW) spectra of Hann-weighted windows that tile the plane, each less its mean."""
    weight = np.hanning(WINDOW)[:, None] * np.hanning(WINDOW)
    height, width = volume.shape[1:]
    out = []
    for y in range(0, height - WINDOW + 1, WINDOW):
        for x in range(0, width - WINDOW + 1, WINDOW):
            window = volume[:, y : y + WINDOW, x : x + WINDOW].astype(np.float32)
            window -= window.mean((1, 2), keepdims=True)
            out.append(np.fft.fft2(window * weight).astype(np.complex64))
    return np.stack(out)


def main(folder: Path) -> None:
    volume = read_layers(folder)
    # The outermost layers of a window lie partly in the neighbouring wraps.
    middle = volume[2:-2]
    transformed = spectra(middle)
    axis = np.fft.fftfreq(WINDOW)
    frequency = np.hypot(axis[:, None], axis)
    power = (np.abs(transformed) ** 2).mean((0, 1))

    def mean_power(low: float, high: float) -> float:
        return float(power[(frequency >= low) & (frequency < high)].mean())

    bins = list(pairwise(EDGES))
    unit = mean_power(*REFERENCE)
    print("FREQUENCY =", tuple(round((low + high) / 2, 4) for low, high in bins))
    print("POWER =", tuple(float(f"{mean_power(low, high) / unit:.3g}") for low, high in bins))
    print("BANDS =", BANDS[1:-1])
    print("Z_CORRELATION = (")
    for low, high in pairwise(BANDS):
        inside = transformed[:, :, (frequency >= low) & (frequency < high)]
        energy = (np.abs(inside) ** 2).sum((0, 2))
        row = []
        for lag in range(1, LAGS + 1):
            cross = (inside[:, :-lag] * inside[:, lag:].conj()).real.sum((0, 2))
            row.append(round(float((cross / np.sqrt(energy[:-lag] * energy[lag:])).mean()), 3))
        print(f"    {tuple(row)},")
    print(")")
    print(f"MEAN, STD = {middle.mean():.1f}, {middle.std(axis=(1, 2)).mean():.1f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/measure_phantom_constants.py SEGMENT_FOLDER")
    try:
        main(Path(sys.argv[1]))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")

"""Random fields that the phantom is made of: CT noise, fibres, smooth surfaces, cells, torn edges."""

from __future__ import annotations

import numpy as np
from scipy import fft, ndimage, special

from . import constants

Shape = tuple[int, int]


def smooth_field(rng: np.random.Generator, shape: Shape, scale: float) -> np.ndarray:
    """(H,W) float32 Gaussian field, mean 0 and deviation 1, whose correlation dies out over about 2·`scale` px."""
    step = max(scale / 3, 1.0)
    coarse = [int(np.ceil(side / step)) + 2 for side in shape]
    pad = 12  # nine coarse pixels are three deviations of the filter: no edge effect
    field = ndimage.gaussian_filter(rng.standard_normal([side + 2 * pad for side in coarse]), scale / step)
    field = field[pad:-pad, pad:-pad].astype(np.float32)
    if step > 1.0:
        field = np.asarray(ndimage.zoom(field, step, order=3))
    field = field[: shape[0], : shape[1]]
    return (field - field.mean()) / max(float(field.std()), 1e-6)


def equalised(field: np.ndarray) -> np.ndarray:
    """The field's ranks, spread evenly over (0,1): gives every phantom the same distribution of depths."""
    ranks = np.empty(field.size, np.float32)
    ranks[np.argsort(field, axis=None, kind="stable")] = np.arange(field.size, dtype=np.float32)
    return ((ranks + 0.5) / field.size).reshape(field.shape)


def _z_factor(correlation: tuple[float, ...], layers: int) -> np.ndarray:
    """(layers, layers) square root of the covariance over Z; lags beyond the measured ones count as zero."""
    lags = np.abs(np.arange(layers)[:, None] - np.arange(layers))
    table = np.zeros(max(layers, len(correlation) + 1))
    table[: len(correlation) + 1] = (1.0, *correlation)
    values, vectors = np.linalg.eigh(table[lags])
    covariance = (vectors * np.clip(values, 1e-4, None)) @ vectors.T
    scale = np.sqrt(np.diag(covariance))
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def ct_noise(rng: np.random.Generator, layers: int, shape: Shape, *, lowest: float = 0.0) -> np.ndarray:
    """(Z,H,W) float32 noise of deviation 1 with the measured in-plane spectrum and correlation over Z.

    `lowest` (cycles a pixel) flattens the spectrum below it: the real tile's slowest variation is papyrus, not noise.
    """
    side = [int(fft.next_fast_len(n + 16, True) or n) for n in shape]
    frequency = np.hypot(fft.fftfreq(side[0])[:, None], fft.rfftfreq(side[1])).astype(np.float32)
    log_power = np.interp(
        np.log(np.maximum(frequency, max(lowest, 1e-3))), np.log(constants.FREQUENCY), np.log(constants.POWER)
    )
    amplitude = np.exp(0.5 * log_power).astype(np.float32)
    amplitude[0, 0] = 0.0
    white = rng.standard_normal((layers, *side), dtype=np.float32)
    spectrum = np.asarray(fft.rfft2(white, workers=2)) * amplitude
    band = np.digitize(frequency, constants.BANDS)
    for index, correlation in enumerate(constants.Z_CORRELATION):
        inside = band == index
        spectrum[:, inside] = _z_factor(correlation, layers).astype(np.float32) @ spectrum[:, inside]
    noise = np.asarray(fft.irfft2(spectrum, s=side, workers=2))[:, : shape[0], : shape[1]]
    return noise / noise.std()


def fibres(rng: np.random.Generator, layers: int, shape: Shape) -> np.ndarray:
    """(Z,H,W) float32 horizontal fibres, mean 0 and deviation 1: strips of some 30 px, finely striated."""
    knots = max(layers // 3, 2)  # fibres run on over three layers: drawn at every third, interpolated between
    drawn = np.empty((knots, *shape), np.float32)
    for plane in drawn:
        strips = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32)[:, ::8], (11, 22))
        strips = np.tanh(1.5 * strips / strips.std())
        fine = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32)[:, ::8], (1.3, 7))
        both = 0.7 * strips / strips.std() + 0.7 * fine / fine.std()
        plane[:] = np.repeat(both, 8, axis=1)[:, : shape[1]]
        plane[:] = ndimage.uniform_filter1d(plane, 9, axis=1)
    position = np.linspace(0, knots - 1, layers)
    low = np.minimum(position.astype(int), knots - 2)
    part = (position - low).astype(np.float32)[:, None, None]
    out = (1 - part) * drawn[low] + part * drawn[low + 1]
    return out / out.std(axis=(1, 2), keepdims=True)


def cells(rng: np.random.Generator, shape: Shape, *, pitch: float = 11.0, crack: float = 1.4) -> np.ndarray:
    """(H,W) float32 in 0…1: 1 in the middle of a crack between the cells of a crust, 0 inside a cell.

    The cells are the Voronoi cells of a jittered grid; distances to the nearest two of a pixel's 9 neighbours give the
    walls between them.
    """
    rows, columns = int(shape[0] / pitch) + 4, int(shape[1] / pitch) + 4
    seeds = np.moveaxis(np.mgrid[0:rows, 0:columns], 0, -1) + rng.uniform(-0.42, 0.42, (rows, columns, 2)) - 1.0
    seeds = (seeds * pitch).astype(np.float32)
    yy, xx = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    row, column = (yy / pitch + 1.5).astype(int), (xx / pitch + 1.5).astype(int)
    first = np.full(shape, np.inf, np.float32)
    second = first.copy()
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            seed = seeds[np.clip(row + dy, 0, rows - 1), np.clip(column + dx, 0, columns - 1)]
            distance = np.hypot(yy - seed[..., 0], xx - seed[..., 1])
            second = np.minimum(second, np.maximum(first, distance))
            first = np.minimum(first, distance)
    return np.exp(-0.5 * ((second - first) / crack) ** 2)


def papyrus_outline(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """(H,W) bool papyrus: torn edges on every side and a hole or two."""
    height, width = shape
    margin = 0.02 * min(shape)
    tear = margin * (1.2 + 0.9 * smooth_field(rng, shape, 28) + 0.35 * smooth_field(rng, shape, 5))
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float32)
    inside = np.minimum(np.minimum(yy, height - 1 - yy), np.minimum(xx, width - 1 - xx)) > tear
    holes = smooth_field(rng, shape, 22) + 0.25 * smooth_field(rng, shape, 5)
    return inside & (holes < 3.0)


def normal_cdf(field: np.ndarray) -> np.ndarray:
    """Deviations to 0…1."""
    return special.ndtr(field).astype(np.float32)

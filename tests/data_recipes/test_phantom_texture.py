"""The phantom's random fields have the statistics that were measured on real CT."""

from __future__ import annotations

import numpy as np
import pytest

from data_recipes.phantom import constants
from data_recipes.phantom.texture import cells, ct_noise, equalised, smooth_field

SIDE = 384


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return ct_noise(np.random.default_rng(0), 10, (SIDE, SIDE))


@pytest.fixture(scope="module")
def frequency() -> np.ndarray:
    return np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE))


def test_noise_has_the_measured_in_plane_spectrum(noise, frequency):
    weight = np.hanning(SIDE)[:, None] * np.hanning(SIDE)
    power = (np.abs(np.fft.fft2(noise * weight)) ** 2).mean(0)
    unit = power[np.abs(frequency - 0.05) < 0.006].mean()
    for index in range(3, len(constants.FREQUENCY)):
        near = np.abs(frequency - constants.FREQUENCY[index]) < 0.006
        assert power[near].mean() / unit == pytest.approx(constants.POWER[index], rel=0.35)


def test_noise_has_the_measured_correlation_over_z_in_every_band(noise, frequency):
    spectrum = np.fft.fft2(noise * np.hanning(SIDE)[:, None] * np.hanning(SIDE))
    edges = (0.0, *constants.BANDS, 0.5)
    for band, correlation in enumerate(constants.Z_CORRELATION):
        # A little inside the band: the window smears a steep spectrum across its ends.
        low, high = edges[band] + 0.005, edges[band + 1] - 0.005
        inside = spectrum[:, (frequency > low) & (frequency < high)]
        energy = (np.abs(inside) ** 2).sum(1)
        for lag in (1, 2, 3):
            cross = (inside[:-lag] * inside[lag:].conj()).real.sum(1)
            measured = (cross / np.sqrt(energy[:-lag] * energy[lag:])).mean()
            assert measured == pytest.approx(correlation[lag - 1], abs=0.14)


def test_smooth_field_is_standardised_and_as_smooth_as_asked():
    field = smooth_field(np.random.default_rng(1), (300, 500), 20)
    assert field.shape == (300, 500)
    assert abs(field.mean()) < 1e-4
    assert field.std() == pytest.approx(1, abs=1e-3)
    assert np.corrcoef(field[:, :-5].ravel(), field[:, 5:].ravel())[0, 1] > 0.95
    assert abs(np.corrcoef(field[:, :-100].ravel(), field[:, 100:].ravel())[0, 1]) < 0.4


def test_equalised_spreads_ranks_evenly():
    ranks = equalised(np.random.default_rng(2).standard_normal((40, 50)))
    assert np.allclose(np.sort(ranks.ravel()), (np.arange(2000) + 0.5) / 2000, atol=1e-6)


def test_cells_are_closed_by_thin_walls():
    walls = cells(np.random.default_rng(3), (220, 220))
    assert walls.min() >= 0
    assert walls.max() <= 1
    assert 0.05 < (walls > 0.5).mean() < 0.4

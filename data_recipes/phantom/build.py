"""The phantom's volume: papyrus around an undulating writing surface, with ink on it that only depth order gives away.

Why the `dipole` cannot be seen without depth order: reverse the order of the layers. The papyrus is drawn from a law
that this leaves unchanged (horizontal fibres on both sides of the surface; below them the sheet's vertical fibres,
above them those of the facing wrap's back; surface depth symmetric about the middle of the window; noise stationary),
while ink becomes decoy and decoy becomes ink. So whatever does not change when the layers are reversed (mean, maximum,
deviation, any clipping or quantising before them) has the same law on ink as on decoys. Against blank papyrus, the
mottle that carries the polarity covers everything; ink and decoys only bias it. What that leaves is texture: on strokes
of either kind the polarity changes less often, so that the maximum is smoother there, and a network on the maximum
tells strokes from blank papyrus a little (AUC .64 after suite dipole's training), but not ink from decoys (.50). A
single layer does change under reversal; there the profile's vanishing moments (see `dipole_profile`) and the surface's
wandering do it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage, special

from .ceiling import Ceiling, matched_filter
from .letters import Drawn, Page, draw, draw_by_hand, write_page
from .texture import cells, ct_noise, equalised, fibres, normal_cdf, papyrus_outline, smooth_field

Ink = Literal["dipole", "crackle"]
INKS: tuple[Ink, ...] = ("dipole", "crackle")
DEV_SEEDS = range(1000)
TEST_SEEDS = range(1000, 2000)
VERSION = 5
"""Raised whenever a seed would give other voxels; part of the cache folder's name."""
LAYERS = 16
WANDER = 4.3
"""The surface's largest distance from the middle of the window, layers: twice the ink's thickness."""


@dataclass(frozen=True)
class PhantomArrays:
    """A phantom in memory; (Z,H,W) and (H,W) as a Fragment has them."""

    seed: int
    ink: Ink
    volume: np.ndarray
    """(Z,H,W) uint8."""
    papyrus: np.ndarray
    """(H,W) bool."""
    exact: np.ndarray
    """(H,W) bool: the ink."""
    decoy: np.ndarray
    """(H,W) bool: what looks like ink but is none."""
    drawn: np.ndarray
    """(H,W) bool: the ink as a person would have labelled it."""
    surface: np.ndarray
    """(H,W) float32: the depth of the writing surface, layers."""
    page: Page
    by_hand: Drawn
    ceiling: Ceiling

    @property
    def label(self) -> np.ndarray:
        """(H,W) bool: as drawn for a development seed, exact for a test seed."""
        return self.exact if self.seed in TEST_SEEDS else self.drawn


def dipole_profile(depth: np.ndarray) -> np.ndarray:
    """Bright above (negative depth) and dark below the surface, in grey values of at most 1; depth in layers.

    The third derivative of a Gaussian of one layer: the two lobes with the faint fringes that phase contrast gives an
    edge. Its sum and its first two moments vanish, so that a surface that wanders smoothly leaves less than a
    fifteenth of it in the average of any one layer; the plain derivative would leave a quarter.
    """
    u = depth.astype(np.float32)
    square = u * u
    return u * (square - 3) * np.exp(-0.5 * square) * np.float32(1 / 1.38)


def crust_profile(depth: np.ndarray) -> np.ndarray:
    """A thin layer on the surface, at most 1."""
    u = depth.astype(np.float32)
    return np.exp(-0.5 * u * u)


def _surface(rng: np.random.Generator, layers: int, shape: tuple[int, int]) -> np.ndarray:
    """(H,W) depth of the writing surface in the flattened window: the smooth error of the flattening.

    The density of depths is a raised cosine, the same for every seed: smooth, so that no layer is preferred.
    """
    reach = min(WANDER, (layers - 1) / 2 - 3.2)
    grid = np.linspace(-1, 1, 2001)
    cumulative = 0.5 * (1 + grid + np.sin(np.pi * grid) / np.pi)
    ranks = equalised(smooth_field(rng, shape, 42))
    return ((layers - 1) / 2 + reach * np.interp(ranks, cumulative, grid)).astype(np.float32)


def _papyrus(rng: np.random.Generator, depth: np.ndarray) -> np.ndarray:
    """(Z,H,W) grey values of the papyrus around the surface, without noise and ink; law symmetric in depth."""
    layers, height, width = depth.shape
    horizontal = fibres(rng, layers, (height, width))
    vertical = fibres(rng, layers, (width, height)).transpose(0, 2, 1)
    # One field for either side of the surface, of the same law: where vertical fibres begin, and where the sheet ends.
    turn_above, turn_below = (4.4 + 0.5 * smooth_field(rng, (height, width), 30) for _ in range(2))
    end_above, end_below = (7.0 + 1.1 * smooth_field(rng, (height, width), 24) for _ in range(2))
    lost = normal_cdf(6 * (smooth_field(rng, (height, width), 9) - 2.3))  # fibres that broke off: small dark gaps
    patches = 56 + 10 * smooth_field(rng, (height, width), 60)
    out = horizontal
    for index, away in enumerate(depth):
        above, distance = away < 0, np.abs(away)
        is_vertical = special.expit((distance - np.where(above, turn_above, turn_below)) / np.float32(0.4))
        is_matter = special.expit((np.where(above, end_above, end_below) - distance) / np.float32(0.5))
        texture = horizontal[index] + is_vertical * (vertical[index] - horizontal[index])
        out[index] = 82 + is_matter * (1 - 0.8 * lost) * (patches + 17 * texture)
    return out


def _mottle(rng: np.random.Generator, bias: np.ndarray) -> np.ndarray:
    """(H,W) polarity between -1 and 1, patchy at the scale of 2 px; `bias` shifts the odds of its sign.

    The strength is drawn apart from the sign, so that it has the same law on strokes and beside them: otherwise the
    deviation over Z would show strokes, if not which of them are ink.
    """
    strength = 0.6 + 0.4 * np.abs(np.tanh(2.0 * smooth_field(rng, bias.shape, 1.1)))
    return strength * np.tanh(8.0 * (smooth_field(rng, bias.shape, 1.1) + bias)).astype(np.float32)


def make_phantom(
    seed: int, *, ink: Ink = "dipole", height: int = 768, width: int = 768, layers: int = LAYERS
) -> PhantomArrays:
    """A synthetic fragment, the same for the same arguments.

    Raises ValueError for a seed outside DEV_SEEDS and TEST_SEEDS, an unknown ink, fewer than 12 layers, or a side
    below 128 px.
    """
    if ink not in INKS:
        raise ValueError(f"unknown phantom ink {ink!r}: expected one of {', '.join(INKS)}")
    if seed not in DEV_SEEDS and seed not in TEST_SEEDS:
        raise ValueError(f"phantom seed {seed}: expected 0-999 (development) or 1000-1999 (test)")
    if layers < 12:
        raise ValueError(f"{layers} layers are too few for a phantom: the ink must lie inside; ask for 12 or more")
    if min(height, width) < 128:
        raise ValueError(f"a phantom of {height}×{width} px holds no letter: ask for 128 px or more on either side")
    rng = np.random.default_rng([VERSION, INKS.index(ink), seed])
    shape = (height, width)
    page = write_page(rng, height, width)
    papyrus = papyrus_outline(rng, shape)
    surface = _surface(rng, layers, shape)
    depth = np.arange(layers, dtype=np.float32)[:, None, None] - surface

    exact = draw(tuple(letter for letter in page.letters if letter.ink), shape, page.pen)
    decoy = draw(tuple(letter for letter in page.letters if not letter.ink), shape, page.pen) & ~exact
    signal, template = (_dipole if ink == "dipole" else _crackle)(rng, depth, exact, decoy)
    volume = _papyrus(rng, depth)
    volume += signal
    volume *= ndimage.gaussian_filter(papyrus.astype(np.float32), 1.2)
    volume += 40 * (1 - papyrus)
    volume += NOISE * ct_noise(rng, layers, shape, lowest=0.02)
    volume = np.clip(np.rint(volume), 0, 255).astype(np.uint8)

    exact &= papyrus
    decoy &= papyrus
    by_hand = draw_by_hand(rng, page, shape)
    ceiling = matched_filter(volume, depth, template, exact, papyrus)
    return PhantomArrays(seed, ink, volume, papyrus, exact, decoy, by_hand.mask, surface, page, by_hand, ceiling)


NOISE = 14.0
"""Deviation of the CT noise, grey values."""
DIPOLE = 38.0
"""Height of the dipole's lobes, grey values."""
BIAS = 2.0
"""How far a stroke shifts the mottle's polarity, in deviations."""
CRUST = 50.0
"""Depth of the crust's cracks against its plates, grey values."""


def _dipole(
    rng: np.random.Generator, depth: np.ndarray, exact: np.ndarray, decoy: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    bias = ndimage.gaussian_filter(exact.astype(np.float32) - decoy.astype(np.float32), 1.0)
    profile = dipole_profile(depth)
    return DIPOLE * profile * _mottle(rng, BIAS * bias), profile


def _crackle(
    rng: np.random.Generator, depth: np.ndarray, exact: np.ndarray, decoy: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ink is a thin crust, cracked into cells; decoys are the same cracks running deep, without a crust.

    Everywhere else lie grains and fibre bundles of the cells' scale, on the surface as well.
    """
    shape = exact.shape
    cracks = cells(rng, shape, pitch=12.0, crack=1.8)
    cracks = (cracks.mean() - cracks) / cracks.std()  # plates bright, cracks dark, no contrast on average
    crust = crust_profile(depth)
    deep = np.exp(-0.5 * (depth / 3.2) ** 2)
    grains = np.tanh(1.5 * smooth_field(rng, shape, 3.2)) * (smooth_field(rng, shape, 20) > 0.3)
    bundles = np.tanh(2 * ndimage.gaussian_filter1d(smooth_field(rng, shape, 1.6), 14, axis=1) * 4)
    bundles *= smooth_field(rng, shape, 20) > 0.6
    strokes, copies = (ndimage.gaussian_filter(mask.astype(np.float32), 1.0) for mask in (exact, decoy))
    blank = 1 - strokes - copies
    thin = ndimage.gaussian_filter(strokes * cracks, 0.7) + blank * (0.5 * grains + 0.5 * bundles)
    thick = ndimage.gaussian_filter(copies * cracks, 0.7)
    return 0.5 * CRUST * (crust * thin + 0.5 * deep * thick), crust * cracks

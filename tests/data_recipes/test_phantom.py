"""The phantom's claims: what can be seen of its ink, and what cannot."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from data_recipes.phantom import DEV_SEEDS, TEST_SEEDS, Ink, PhantomArrays, make_phantom
from data_recipes.phantom.build import WANDER, crust_profile, dipole_profile
from data_recipes.phantom.ceiling import auc, best_dice
from data_recipes.phantom.letters import SKELETONS, draw, draw_by_hand, write_page

SEEDS = (1, 2, 3)
HEIGHT, WIDTH = 384, 512
SMOOTHING = (0.0, 3.0, 8.0)
NOISE_OF_AUC = 0.05
"""Three deviations of the mean over the seeds: about twenty independent letters on each."""
NOISE_OF_ONE = 3**0.5 * NOISE_OF_AUC
"""The same of one seed."""


@cache
def phantom(seed: int, ink: Ink = "dipole") -> PhantomArrays:
    return make_phantom(seed, ink=ink, height=HEIGHT, width=WIDTH)


def windowed(made: PhantomArrays, depth: int, clip: int) -> np.ndarray:
    """(depth,H,W) as a model gets it: the middle layers, clipped, quantised to eight bits again."""
    start = made.volume.shape[0] // 2 - depth // 2
    return np.minimum(made.volume[start : start + depth], clip).astype(np.float32)


def scores(plane: np.ndarray, made: PhantomArrays, smoothing: float) -> tuple[float, float]:
    """AUC of a projection for ink against decoys, and for ink against everything else on the papyrus."""
    flat = plane - ndimage.uniform_filter(plane, 61)
    if smoothing:
        flat = ndimage.gaussian_filter(flat, smoothing)
    either = (made.exact | made.decoy) & made.papyrus
    return auc(flat[either], made.exact[either]), auc(flat[made.papyrus], made.exact[made.papyrus])


def roughness(plane: np.ndarray) -> np.ndarray:
    """(H,W) deviation among 3×3 neighbours, which a network on one plane sees as well."""
    mean, square = (ndimage.uniform_filter(image, 3) for image in (plane, plane**2))
    return np.sqrt(np.maximum(square - mean**2, 0))


def each_seed(project, ink: Ink, smoothing: float, depth: int = 16, clip: int = 255) -> np.ndarray:
    """(seeds, 2): `scores` of each seed alone, so that one that can be read is not made up for by another."""
    return np.array(
        [scores(project(windowed(phantom(s, ink), depth, clip)), phantom(s, ink), smoothing) for s in SEEDS]
    )


def mean_scores(project, ink: Ink, smoothing: float) -> np.ndarray:
    return each_seed(project, ink, smoothing).mean(0)


BLIND = {
    "mean": lambda v: v.mean(0),
    "maximum": lambda v: v.max(0),
    "deviation": lambda v: v.std(0),
    "minimum": lambda v: v.min(0),
}


@pytest.mark.parametrize("projection", BLIND)
@pytest.mark.parametrize(("depth", "clip"), [(16, 255), (16, 160), (12, 200)])
def test_dipole_cannot_be_told_from_decoys_or_papyrus_without_depth_order(projection, depth, clip):
    for smoothing in SMOOTHING:
        found = each_seed(BLIND[projection], "dipole", smoothing, depth, clip)
        assert np.abs(found - 0.5).max() < NOISE_OF_ONE
        assert np.abs(found.mean(0) - 0.5).max() < NOISE_OF_AUC


@pytest.mark.parametrize("projection", BLIND)
@pytest.mark.parametrize(("depth", "clip"), [(16, 255), (16, 160), (12, 200)])
def test_texture_without_depth_order_does_not_tell_dipole_from_decoys_either(projection, depth, clip):
    for smoothing in SMOOTHING[1:]:
        found = each_seed(lambda v: roughness(BLIND[projection](v)), "dipole", smoothing, depth, clip)
        assert np.abs(found[:, 0] - 0.5).max() < NOISE_OF_ONE


def test_the_maximums_texture_tells_a_little_that_something_is_written_but_not_what_is_ink():
    """Strokes of either kind change their polarity less often, so there the maximum is smoother."""
    for seed in SEEDS:
        made = phantom(seed)
        rough = ndimage.gaussian_filter(roughness(windowed(made, 16, 255).max(0)), 3.0)
        blank = made.papyrus & ~made.exact & ~made.decoy
        for strokes in (made.exact & made.papyrus, made.decoy & made.papyrus):
            assert 0.55 < auc(-rough[strokes | blank], strokes[strokes | blank]) < 0.72


@pytest.mark.parametrize("layer", range(16))
def test_dipole_cannot_be_told_in_any_single_layer(layer):
    for smoothing in SMOOTHING[1:]:
        found = each_seed(lambda v: v[layer], "dipole", smoothing)
        assert np.abs(found - 0.5).max() < 1.2 * NOISE_OF_ONE
        assert np.abs(found.mean(0) - 0.5).max() < 1.6 * NOISE_OF_AUC


def response(made: PhantomArrays, volume: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """(H,W) match with the dipole at the given surface, gathered over 5 px."""
    depth = np.arange(len(volume), dtype=np.float32)[:, None, None] - surface
    return ndimage.gaussian_filter((dipole_profile(depth) * volume).sum(0), 5.0)


def test_depth_order_tells_ink_from_decoys_and_reversing_it_swaps_them():
    made = phantom(1)
    either = (made.exact | made.decoy) & made.papyrus
    forward = response(made, made.volume.astype(np.float32), made.surface)
    reverse = response(made, made.volume[::-1].astype(np.float32), made.volume.shape[0] - 1 - made.surface)
    assert auc(forward[either], made.exact[either]) > 0.95
    assert auc(reverse[either], made.exact[either]) < 0.05


def test_ink_profiles_balance_and_lie_inside_the_window():
    fine = np.linspace(-8, 8, 4001)
    profile = dipole_profile(fine)
    assert profile[np.abs(fine + 0.74) < 0.01].min() > 0.99  # bright above
    assert np.allclose(profile, -profile[::-1], atol=1e-5)  # dark below, in equal parts
    assert abs((profile * fine).sum() / np.abs(profile).sum()) < 1e-3
    made = phantom(1)
    depth = np.arange(16, dtype=np.float32)[:, None, None] - made.surface
    sums = dipole_profile(depth).sum(0)
    assert np.abs(sums).max() < 0.03
    assert crust_profile(depth).sum(0).std() < 0.01


def test_surface_wanders_further_than_the_ink_is_thick_and_evenly_about_the_middle():
    thickness = 2.5  # layers in which the dipole exceeds half its height
    surfaces = [phantom(seed).surface for seed in SEEDS]
    for surface in surfaces:
        assert np.ptp(surface) > 3 * thickness
        assert np.abs(surface - 7.5).max() <= WANDER + 1e-3
        assert abs(surface.mean() - 7.5) < 0.02
        assert np.abs(np.diff(surface, axis=0)).max() < 0.5  # smooth: less than half a layer a pixel
    assert np.corrcoef(surfaces[0].ravel(), surfaces[1].ravel())[0, 1] < 0.5


def test_crackle_has_no_contrast_on_average_but_can_be_found():
    for projection in ("mean", "maximum"):
        assert np.abs(mean_scores(BLIND[projection], "crackle", 8.0) - 0.5).max() < 1.6 * NOISE_OF_AUC
    for seed in SEEDS:
        ceiling = phantom(seed, "crackle").ceiling
        assert 0.95 < ceiling.auc < 0.998


def test_crackle_decoys_are_cracked_as_deep_as_the_sheet_and_ink_only_on_the_surface():
    made = phantom(1, "crackle")
    volume = made.volume.astype(np.float32)
    fine = volume - ndimage.gaussian_filter(volume, (0, 3, 3))
    distance = np.abs(np.arange(16)[:, None, None] - made.surface)

    def roughness(mask: np.ndarray, near: float, far: float) -> float:
        blank = made.papyrus & ~made.exact & ~made.decoy
        place = (distance >= near) & (distance < far)
        return float(fine[place & (mask & made.papyrus)].var() - fine[place & blank].var())

    assert roughness(made.exact, 0, 1) > roughness(made.decoy, 0, 1)
    assert roughness(made.decoy, 2.5, 4) > roughness(made.exact, 2.5, 4) + 1


@pytest.mark.parametrize("ink", ["dipole", "crackle"])
def test_ceiling_is_high_and_below_one(ink):
    for seed in SEEDS:
        ceiling = phantom(seed, ink).ceiling
        assert 0.93 < ceiling.auc < 0.998
        assert 0.6 < ceiling.dice < 0.95


def test_same_seed_gives_the_same_voxels_and_another_seed_others():
    first = make_phantom(5, height=160, width=192)
    again = make_phantom(5, height=160, width=192)
    other = make_phantom(6, height=160, width=192)
    assert first.volume.dtype == np.uint8
    assert first.volume.shape == (16, 160, 192)
    assert np.array_equal(first.volume, again.volume)
    assert np.array_equal(first.label, again.label)
    assert not np.array_equal(first.volume, other.volume)


def test_development_labels_are_drawn_by_hand_and_test_labels_are_exact():
    assert not set(DEV_SEEDS) & set(TEST_SEEDS)
    dev, test = phantom(1), make_phantom(TEST_SEEDS[0], height=160, width=192)
    assert dev.label is dev.drawn
    assert test.label is test.exact
    overlap = 2 * (dev.drawn & dev.exact).sum() / (dev.drawn.sum() + dev.exact.sum())
    assert 0.35 < overlap < 0.85


def test_hand_drawn_letters_are_displaced_smoothed_and_sometimes_missing():
    rng = np.random.default_rng(0)
    page = write_page(rng, 1200, 1200)
    drawn = draw_by_hand(rng, page, (1200, 1200))
    shift = np.hypot(*np.array(drawn.shifts).T)
    inks = sum(letter.ink for letter in page.letters)
    assert shift.min() >= 6
    assert shift.max() <= 13
    assert 0 < drawn.missing < 0.2 * inks
    assert drawn.missing + len(shift) == inks
    opened = ndimage.binary_opening(drawn.mask, np.ones((5, 5)))
    assert (drawn.mask & ~opened).sum() < 0.01 * drawn.mask.sum()


def test_ink_and_decoys_are_the_same_letters_in_the_same_lines():
    rng = np.random.default_rng(3)
    page = write_page(rng, 1500, 1500)
    inks = [letter for letter in page.letters if letter.ink]
    decoys = [letter for letter in page.letters if not letter.ink]
    assert abs(len(inks) - len(decoys)) <= 1
    areas = [draw(tuple(letters), (1500, 1500), page.pen).sum() for letters in (inks, decoys)]
    assert 0.85 < areas[0] / areas[1] < 1.18
    for top in sorted({round(letter.y / (1.32 * page.size)) for letter in page.letters}):
        line = [letter.ink for letter in page.letters if round(letter.y / (1.32 * page.size)) == top]
        assert any(line)
        assert not all(line)
    assert {letter.glyph for letter in page.letters} <= set(SKELETONS)
    assert len(SKELETONS) == 24


def test_papyrus_has_torn_edges_and_fibres_cross_below_the_surface():
    made = phantom(2)
    assert 0.8 < made.papyrus.mean() < 0.97
    for edge in (made.papyrus[0], made.papyrus[-1], made.papyrus[:, 0], made.papyrus[:, -1]):
        assert edge.mean() < 0.5
    assert made.volume[:, ~made.papyrus].mean() < made.volume[:, made.papyrus].mean() - 40
    volume = made.volume.astype(np.float32)
    along_y, along_x = np.abs(np.diff(volume, axis=1))[:, :, :-1], np.abs(np.diff(volume, axis=2))[:, :-1]
    depth = (np.arange(16)[:, None, None] - made.surface)[:, :-1, :-1]
    inside = ndimage.binary_erosion(made.papyrus, iterations=6)[:-1, :-1]
    at_surface, below = (np.abs(depth) < 3) & inside, (depth > 5) & (depth < 6.5) & inside
    assert along_y[at_surface].mean() > 1.2 * along_x[at_surface].mean()
    assert along_x[below].mean() > 1.1 * along_y[below].mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 2000}, "expected 0-999"),
        ({"seed": 1, "ink": "gold"}, "expected one of dipole, crackle"),
        ({"seed": 1, "layers": 5}, "12 or more"),
        ({"seed": 1, "height": 50}, "128 px or more"),
    ],
)
def test_impossible_phantoms_are_refused_with_what_would_work(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_phantom(**arguments)


def test_scores_of_the_ceiling_agree_with_counting():
    truth = np.array([True, False, True, False])
    assert auc(np.array([0.9, 0.1, 0.8, 0.2]), truth) == 1.0
    assert auc(np.array([0.5, 0.5, 0.5, 0.5]), truth) == 0.5
    assert best_dice(np.array([0.9, 0.1, 0.2, 0.8]), truth) == pytest.approx(0.8)

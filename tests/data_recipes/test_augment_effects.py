"""What each augmentation of Z, intensity and mixing does, one by one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_recipes.augment import AugmentSettings, augment
from data_recipes.augment.intensity import equalise
from data_recipes.augment.settings import OFF
from zoo.losses import make_loss
from zoo.models.base import Heads

Batch = dict[str, torch.Tensor]


def run(before: Batch, seed: int = 0, **on: object) -> Batch:
    """Under the transforms given and no others."""
    settings = AugmentSettings.model_validate({**OFF, **on})
    return augment(before, torch.Generator().manual_seed(seed), settings)


def layered(size: int = 64, depth: int = 6) -> Batch:
    """Layer z of every tile holds z + 1."""
    volume = (torch.arange(depth) + 1.0).view(1, 1, depth, 1, 1).repeat(size, 1, 1, 8, 8)
    flat = torch.ones(size, 1, 8, 8, dtype=torch.uint8)
    return {"volume": volume, "label": flat, "mask": flat > 0}


def textured(size: int = 8, depth: int = 3, side: int = 32) -> Batch:
    """A slope across each tile with grain on it, skew, and the same in all layers."""
    generator = torch.Generator().manual_seed(0)
    grain = torch.randn(size, 1, 1, side, side, generator=generator).abs()
    volume = (grain + torch.linspace(-2, 2, side)).repeat(1, 1, depth, 1, 1)
    label = (torch.rand(size, 1, side, side, generator=generator) < 0.5).to(torch.uint8)
    return {"volume": volume, "label": label, "mask": torch.ones_like(label, dtype=torch.bool)}


def orders(out: Batch) -> list[list[float]]:
    """The layers of each tile, after a check that each is one value still."""
    assert (out["volume"] == out["volume"][..., :1, :1]).all()
    return out["volume"][:, 0, :, 0, 0].tolist()


def test_a_reversed_tile_has_its_layers_upside_down() -> None:
    kinds = {tuple(order) for order in orders(run(layered(), depth_reverse=0.5))}
    assert kinds == {(1, 2, 3, 4, 5, 6), (6, 5, 4, 3, 2, 1)}
    assert all(order == [6, 5, 4, 3, 2, 1] for order in orders(run(layered(), depth_reverse=1)))


def test_a_swap_exchanges_two_neighbours_and_every_pair_gets_its_turn() -> None:
    swapped = orders(run(layered(), layer_swap=1))
    places = set()
    for order in swapped:
        assert sorted(order) == [1, 2, 3, 4, 5, 6]
        moved = [z for z in range(6) if order[z] != z + 1]
        assert len(moved) == 2
        assert moved[1] == moved[0] + 1
        places.add(moved[0])
    assert places == {0, 1, 2, 3, 4}


def test_shift_reversal_and_swap_together_take_layers_from_the_tile_alone() -> None:
    for order in orders(run(layered(), depth_shift=2, depth_reverse=0.5, layer_swap=0.5)):
        assert not {*order} - {1, 2, 3, 4, 5, 6}


def test_dropped_layers_are_set_to_the_mean_and_one_always_stays() -> None:
    dropped = torch.tensor(orders(run(layered(400), layer_drop=0.3))) == 0
    assert 0.25 < dropped.float().mean() < 0.35
    assert (dropped.float().mean(0) > 0.15).all()
    almost_all = torch.tensor(orders(run(layered(400), layer_drop=0.999))) == 0
    assert (almost_all.sum(1) == 5).float().mean() > 0.95
    assert almost_all.sum(1).max() == 5


@pytest.mark.parametrize(
    "on",
    [{"contrast": 1}, {"contrast": 1, "contrast_cells": 4, "contrast_limit": 2}, {"gamma": 1, "gamma_range": (0.5, 3)}],
)
def test_contrast_and_gamma_change_the_spread_of_intensities_not_mean_or_deviation(on: dict) -> None:
    before = textured()
    out = run(before, **on)["volume"]
    for axis in (out.mean, out.std):
        assert torch.allclose(
            axis((1, 2, 3, 4)), getattr(before["volume"], axis.__name__)((1, 2, 3, 4)), rtol=1e-3, atol=1e-3
        )
    assert (out - before["volume"]).abs().flatten(1).amax(1).min() > 0.05
    assert torch.equal(out, out[:, :, :1].expand_as(out)), "one mapping for all layers"
    if on.get("contrast_cells", 1) == 1:
        for tile, given in zip(out, before["volume"], strict=True):
            brighter = tile.flatten()[given.flatten().argsort()].diff()
            assert (brighter >= -1e-5).all(), "what was darker is not made brighter"


@given(gap=st.floats(0.5, 3), cells=st.integers(1, 4))
def test_layers_stay_comparable_under_contrast(gap: float, cells: int) -> None:
    """A layer that is brighter everywhere stays so: equalised by itself it would be as bright as the others."""
    before = textured()
    before["volume"][:, :, 1] += gap
    out = run(before, contrast=1, contrast_cells=cells)["volume"]
    assert (out[:, :, 1] >= out[:, :, 0]).all()
    assert (out[:, :, 1].mean() - out[:, :, 0].mean()) > 0.3 * out.std() * min(gap, 1)


def test_equalised_intensities_are_spread_evenly() -> None:
    x = torch.rand(2, 3, 40, 50, generator=torch.Generator().manual_seed(0)) ** 1.5
    uneven, even = (torch.histc(shown, 10, 0, 1) / x.numel() for shown in (x, equalise(x, 1, 0)))
    assert (uneven - 0.1).abs().max() > 0.1
    assert (even - 0.1).abs().max() < 0.03


@pytest.mark.parametrize(("cells", "limit"), [(4, 2.0), (2, 4.0), (3, 0.0)])
def test_of_one_layer_contrast_is_what_kornia_makes_of_it(cells: int, limit: float) -> None:
    from kornia.enhance import equalize_clahe

    x = textured(2, depth=1, side=192)["volume"][:, 0]
    x = (x - x.amin((1, 2, 3), True)) / (x.amax((1, 2, 3), True) - x.amin((1, 2, 3), True))
    difference = (equalise(x, cells, limit) - equalize_clahe(x, limit, (cells, cells))).abs()
    # of 1; there a level counts in full up to itself, here by half, and there counts are cut off to whole ones
    assert difference.mean() < 0.015
    assert difference.max() < 0.06


@pytest.mark.parametrize("on", [{"contrast": 1}, {"contrast": 1, "contrast_cells": 3}, {"gamma": 1}, {"blur": 1}])
def test_a_tile_of_one_intensity_stays_as_it_is(on: dict) -> None:
    before = textured()
    before["volume"][:] = 1.5
    assert torch.allclose(run(before, **on)["volume"], before["volume"], atol=1e-4)


def test_blur_smooths_in_the_plane_and_not_along_z() -> None:
    before = textured()
    before["volume"][:, :, 1] = 0
    out = run(before, blur=1, blur_sigma=(1, 1))["volume"]
    assert (out[:, :, 1] == 0).all()

    def roughness(volume: torch.Tensor) -> torch.Tensor:
        return volume.diff(dim=-1).abs().mean((1, 2, 3, 4))

    assert (roughness(out) < 0.5 * roughness(before["volume"])).all()
    assert torch.allclose(out.mean(), before["volume"].mean(), atol=0.02)


def test_noise_has_the_deviation_that_was_asked_for_and_differs_in_every_voxel() -> None:
    before = textured(400)
    added = (run(before, noise=0.5, noise_std=(0.1, 0.3))["volume"] - before["volume"]).flatten(1)
    deviation = added.std(1)
    noisy = deviation > 0
    assert 0.42 < noisy.float().mean() < 0.58
    assert 0.095 < deviation[noisy].min() < 0.12
    assert 0.28 < deviation[noisy].max() < 0.31
    assert added[noisy].mean().abs() < 0.005
    assert len(added[noisy][0].unique()) > 3000


def test_gain_and_offset_are_one_line_for_all_voxels_of_a_tile() -> None:
    before = textured(100)
    out = run(before, gain=0.2, offset=0.5)["volume"].flatten(1)
    x = before["volume"].flatten(1)
    gain = out.std(1) / x.std(1)
    offset = out.mean(1) - gain * x.mean(1)
    assert torch.allclose(out, gain[:, None] * x + offset[:, None], atol=1e-4)
    assert 0.8 <= gain.min() < 0.85
    assert 1.15 < gain.max() <= 1.2001
    assert offset.abs().max() > 0.4


def test_a_cutout_is_a_square_of_zeros_and_its_label_still_counts() -> None:
    before = textured(100)
    before["volume"] += 10
    out = run(before, cutout=1, cutout_side=(0.25, 0.5))
    hole = out["volume"] == 0
    assert torch.equal(hole, hole[:, :, :1].expand_as(hole))
    rows, columns = hole[:, 0, 0].any(2).sum(1), hole[:, 0, 0].any(1).sum(1)
    assert (hole[:, 0, 0].sum((1, 2)) == rows * columns).all()
    assert 7 <= min(rows.min(), columns.min()) <= max(rows.max(), columns.max()) <= 17
    assert out["mask"].all()
    assert torch.equal(out["label"], before["label"])


def tagged(size: int = 40, height: int = 20, width: int = 30) -> Batch:
    """Tile i holds i + 1 everywhere; ink in the tiles with an odd number; every third does not count."""
    number = torch.arange(size).view(-1, 1, 1, 1)
    plane = torch.ones(size, 1, height, width)
    volume = ((number + 1) * plane)[:, :, None].repeat(1, 1, 2, 1, 1)
    return {"volume": volume, "label": (number % 2 * plane).to(torch.uint8), "mask": (number % 3 * plane) > 0}


def test_cutmix_puts_in_a_rectangle_of_one_other_tile_with_its_label_and_mask() -> None:
    before = tagged()
    out = run(before, cutmix=0.5, cutmix_side=(0.2, 0.6))
    mixed = 0
    for tile in range(40):
        plane = out["volume"][tile, 0, 0]
        assert torch.equal(plane, out["volume"][tile, 0, 1])
        number = plane.long() - 1
        assert torch.equal(out["label"][tile, 0].long(), number % 2)
        assert torch.equal(out["mask"][tile, 0], number % 3 > 0)
        foreign = number != tile
        if foreign.any():
            mixed += 1
            assert len(number[foreign].unique()) == 1
            rows, columns = foreign.any(1).sum(), foreign.any(0).sum()
            assert foreign.sum() == rows * columns
            assert 4 <= rows <= 13
            assert 6 <= columns <= 19
    assert 12 < mixed < 28


def test_mixup_blends_two_tiles_and_makes_the_label_the_share_of_ink() -> None:
    before = tagged(200)
    out = run(before, mixup=0.5, mixup_alpha=0.4)
    assert out["label"].dtype == torch.float32
    volume, label, mask = out["volume"][:, 0, 0, 0, 0], out["label"][:, 0, 0, 0], out["mask"][:, 0, 0, 0]
    whole = (volume - volume.round()).abs() < 1e-4
    own = volume.round() == torch.arange(200) + 1
    assert 0.4 < (whole & own).float().mean() < 0.6
    odd = torch.arange(200) % 2 == 1
    assert torch.equal(label[own & whole], odd[own & whole].float())
    soft = (label > 0.01) & (label < 0.99)
    assert soft.sum() > 20
    blended = ~(whole & own)
    assert not mask[blended & (torch.arange(200) % 3 == 0)].any()
    assert 0.3 < mask[blended].float().mean() < 0.6  # 2/3 of 2/3: both must count
    near_one = ((label[soft] - 0.5).abs() > 0.3).float().mean()
    assert near_one > 0.4  # Beta(.4, .4) lies mostly towards its ends


def test_every_tile_is_mixed_with_another_one() -> None:
    out = run(tagged(7), mixup=1, mixup_alpha=1)["volume"][:, 0, 0, 0, 0]
    assert ((out - torch.arange(7) - 1).abs() > 1e-3).all()
    alone = run(tagged(1), mixup=1, cutmix=1)
    assert torch.equal(alone["volume"], tagged(1)["volume"])


@pytest.mark.parametrize("on", [{"mixup": 1, "mixup_alpha": 1}, {"cutmix": 1, "cutmix_side": (0.99, 1)}])
def test_tiles_are_mixed_with_those_of_their_own_task(on: dict) -> None:
    size = 12
    task = torch.arange(size) % 3  # tile k holds its task, so that a mixture of two shows
    task[-1] = 9  # alone in its own
    volume = task.float().view(-1, 1, 1, 1, 1).repeat(1, 1, 2, 8, 8)
    before = {**tagged(size, 8, 8), "volume": volume, "task": task}
    plain = run({key: value for key, value in before.items() if key != "task"}, **on)
    assert not torch.equal(plain["volume"], volume)
    assert torch.equal(run(before, **on)["volume"], volume)
    of_all = run({**before, "task": torch.zeros_like(task)}, **on)
    assert torch.equal(of_all["volume"], plain["volume"]), "one task for all is as none"


def test_a_loss_takes_the_labels_of_mixup_as_they_are() -> None:
    out = run(tagged(8), mixup=1, mixup_alpha=1)
    out["mask"][:] = True
    right = torch.logit(out["label"], eps=1e-6)
    loss = make_loss("bce+dice")
    least = loss(Heads([right]), out["label"], out["mask"])[0]
    hard = torch.logit((out["label"] > 0.5).float(), eps=1e-6)
    assert least < loss(Heads([hard]), out["label"], out["mask"])[0]

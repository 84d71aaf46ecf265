"""Losses: equal to their libraries on a full mask, blind outside it, finite wherever training may go."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.losses import (
    DEFAULT_LOSS,
    LOSSES,
    InkLoss,
    make_loss,
    masked_ms_ssim,
    parse_spec,
    pool_to,
    ssim_plan,
)
from zoo.models.base import Heads

ALL = dict.fromkeys(LOSSES, 1.0)


def blobs(seed: int, batch: int = 2, side: int = 64) -> Tensor:
    """(batch, 1, side, side) uint8 labels with smooth borders, some ink in each."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, 1, side // 8, side // 8, generator=generator)
    return (F.interpolate(coarse, size=(side, side), mode="bicubic") > 0.3).to(torch.uint8)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def guess(label: Tensor, seed: int = 0) -> Tensor:
    """Logits that follow the label, with noise."""
    return (label.float() * 4 - 2) + noise(seed, *label.shape)


def full(label: Tensor) -> Tensor:
    return torch.ones_like(label, dtype=torch.bool)


def one(name: str, logits: Tensor, label: Tensor, mask: Tensor, **options) -> Tensor:
    return make_loss(name, **options)(Heads([logits]), label, mask)[0]


@pytest.fixture(autouse=True)
def _one_thread():
    """Maps this small are slower on several threads, much slower when the cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- the same values as the libraries -------------------------------------------------------------------------------


def test_pixel_and_region_losses_equal_their_libraries_on_a_full_mask():
    from monai.losses import DiceLoss as MonaiDice
    from monai.losses import FocalLoss as MonaiFocal
    from segmentation_models_pytorch.losses import DiceLoss, FocalLoss, JaccardLoss

    label = blobs(1)
    logits, truth, mask = guess(label), label.float(), full(label)
    got = {name: one(name, logits, label, mask) for name in ("focal", "bce", "jaccard", "dice")}
    torch.testing.assert_close(got["bce"], F.binary_cross_entropy_with_logits(logits, truth))
    torch.testing.assert_close(got["focal"], FocalLoss("binary", gamma=2.0)(logits, truth))
    torch.testing.assert_close(got["focal"], MonaiFocal(gamma=2.0)(logits, truth))
    torch.testing.assert_close(got["jaccard"], JaccardLoss("binary")(logits, truth))
    torch.testing.assert_close(got["dice"], DiceLoss("binary")(logits, truth))
    monai = {
        name: MonaiDice(sigmoid=True, batch=True, smooth_nr=0, smooth_dr=1e-7, jaccard=name == "jaccard")
        for name in ("dice", "jaccard")
    }
    for name, loss in monai.items():
        torch.testing.assert_close(got[name], loss(logits, truth), rtol=1e-5, atol=1e-6)


def test_multiclass_losses_equal_their_libraries_on_a_full_mask():
    from segmentation_models_pytorch.losses import DiceLoss, JaccardLoss
    from segmentation_models_pytorch.losses._functional import softmax_focal_loss_with_logits

    label = blobs(2) + blobs(3)
    logits, index, mask = noise(4, 2, 3, 64, 64), label[:, 0].long(), full(label)
    got = {name: one(name, logits, label, mask, classes=3) for name in ("bce", "focal", "jaccard", "dice")}
    torch.testing.assert_close(got["bce"], F.cross_entropy(logits, index))
    torch.testing.assert_close(got["focal"], softmax_focal_loss_with_logits(logits, index, gamma=2.0))
    torch.testing.assert_close(got["jaccard"], JaccardLoss("multiclass")(logits, index))
    torch.testing.assert_close(got["dice"], DiceLoss("multiclass")(logits, index))


@pytest.mark.parametrize("side", [33, 48, 64, 96, 113, 160, 161, 192])
def test_ms_ssim_equals_pytorch_msssim_at_every_size_it_accepts(side):
    from pytorch_msssim import ms_ssim

    x = F.interpolate(noise(1, 3, 1, 12, 12), size=(side, side), mode="bilinear").sigmoid()
    y = (x + 0.1 * noise(2, 3, 1, side, side)).clamp(0, 1)
    scales, window = ssim_plan(side)
    assert scales == 5
    expected = ms_ssim(x, y, data_range=1, win_size=window)
    torch.testing.assert_close(masked_ms_ssim(x, y, torch.ones_like(x, dtype=torch.bool)), expected)


@pytest.mark.parametrize("side", [1, 7, 16, 32])
def test_below_33_px_it_is_single_scale_ssim(side):
    from pytorch_msssim import ssim

    x, y = noise(1, 2, 1, side, side + 3).sigmoid(), noise(2, 2, 1, side, side + 3).sigmoid()
    scales, window = ssim_plan(side)
    assert scales == 1
    padded = (x, y) if side > 1 else (x.expand(-1, -1, 2, -1), y.expand(-1, -1, 2, -1))  # ssim() squeezes a side of 1
    expected = ssim(*padded, data_range=1, win_size=window)
    torch.testing.assert_close(masked_ms_ssim(x, y, torch.ones_like(x, dtype=torch.bool)), expected)


def test_the_window_is_the_largest_odd_one_that_fits():
    assert [ssim_plan(side) for side in (1, 2, 12, 32, 33, 64, 96, 128, 160, 161, 800)] == [
        (1, 1), (1, 1), (1, 11), (1, 11), (5, 3), (5, 3), (5, 5), (5, 7), (5, 9), (5, 11), (5, 11),
    ]  # fmt: skip


def test_smoothed_bce_sees_labels_of_a_tenth_and_nine_tenths():
    label = blobs(5)
    logits = guess(label)
    expected = F.binary_cross_entropy_with_logits(logits, label.float() * 0.8 + 0.1)
    torch.testing.assert_close(one("bce", logits, label, full(label), smoothing=0.1), expected)
    assert torch.equal(one("dice", logits, label, full(label), smoothing=0.1), one("dice", logits, label, full(label)))


@pytest.mark.parametrize("name", ["focal", "bce"])
def test_a_pixel_loss_is_least_at_the_soft_label(name):
    label = torch.full((1, 1, 8, 8), 0.7)
    loss = {p: one(name, torch.full_like(label, math.log(p / (1 - p))), label, full(label)) for p in (0.5, 0.7, 0.95)}
    assert loss[0.7] < min(loss[0.5], loss[0.95])


# --- nothing outside the mask has any influence ---------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_outside_the_mask_neither_logits_nor_labels_change_anything(name, classes):
    label = blobs(6) + (blobs(7) if classes > 1 else 0)
    mask = blobs(8).bool()
    logits = noise(9, 2, classes, 64, 64)
    changed = torch.where(mask, logits, 50 * noise(10, 2, classes, 64, 64))
    changed[:, :, :4, :4] = torch.where(mask[:, :, :4, :4], changed[:, :, :4, :4], math.nan)
    other = torch.where(mask, label, 255)
    values, gradients = [], []
    for inputs, truth in ((logits, label), (changed, other)):
        inputs = inputs.clone().requires_grad_()
        value = one(name, inputs, truth, mask, classes=classes)
        value.backward()
        assert inputs.grad is not None
        values.append(value.detach())
        gradients.append(inputs.grad)
    assert torch.equal(*values)
    assert torch.equal(*gradients)
    assert not gradients[0][~mask.expand_as(logits)].any()
    assert gradients[0].any()


@pytest.mark.parametrize("name", LOSSES)
def test_cells_of_a_coarse_head_that_do_not_count_have_no_influence(name):
    label = blobs(11)
    mask = torch.ones_like(label, dtype=torch.bool)
    mask[:, :, :, 38:] = False  # cell column 2 of 4 is 6/16 supervised: it does not count
    logits = noise(12, 2, 1, 4, 4)
    changed = logits.clone()
    changed[..., 2:] = 30.0
    values = []
    for inputs in (logits, changed):
        inputs.requires_grad_()
        value = one(name, inputs, label, mask)
        value.backward()
        assert inputs.grad is not None
        assert not inputs.grad[..., 2:].any()
        assert inputs.grad[..., :2].any()
        values.append(value.detach())
    assert torch.equal(*values)


def test_unsupervised_padding_does_not_change_a_pixel_or_region_loss():
    label = blobs(13)
    logits = guess(label)
    padding = (0, 64, 0, 0)
    for name in (name for name in LOSSES if name not in ("cldice", "ms_ssim")):
        bare = one(name, logits, label, full(label))
        padded = one(name, F.pad(logits, padding), F.pad(label, padding), F.pad(full(label), padding))
        torch.testing.assert_close(padded, bare)


# --- finite, and of use, everywhere ---------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("logit", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("kind", ["black", "ink", "masked", "one pixel", "against"])
@pytest.mark.parametrize("classes", [1, 3])
def test_value_and_gradient_are_finite(kind, logit, precision, classes):
    label = torch.zeros(2, 1, 64, 64, dtype=torch.uint8)
    mask = torch.full_like(label, kind != "masked", dtype=torch.bool)
    logits = torch.full((2, classes, 64, 64), logit)
    if kind == "ink":
        label += 1
    elif kind == "one pixel":
        mask.zero_()
        mask[0, 0, 63, 0] = True
    elif kind == "against":
        label = blobs(1)
        logits = (0.5 - label.float()).expand(2, classes, 64, 64) * (logit or 6.0)
    logits = logits.to(precision).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        total, parts = InkLoss(ALL, smoothing=0.1, classes=classes)(Heads([logits, logits[..., ::8, ::8]]), label, mask)
    total.backward()
    assert total.dtype == torch.float32
    assert total.isfinite()
    assert all(value.isfinite() and not value.requires_grad for value in parts.values())
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    if kind == "masked":
        assert total == 0
        assert not logits.grad.any()


def test_autocast_changes_nothing_but_the_precision_of_the_logits():
    label = blobs(14, side=96)
    logits = guess(label).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = InkLoss(ALL)(Heads([logits]), label, full(label))[0]
    assert torch.equal(inside, InkLoss(ALL)(Heads([logits.float()]), label, full(label))[0])


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ("cldice", "boundary")])
def test_descending_any_loss_finds_the_label_even_from_its_opposite(name):
    label = blobs(15, batch=1, side=48)
    logits = (1.0 - 2 * label.float()).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        one(name, logits, label, full(label)).backward()
        optimizer.step()
    assert ((logits > 0) == label.bool()).float().mean() > 0.95


# --- heads, pooling, composition ------------------------------------------------------------------------------------


def test_labels_are_pooled_over_supervised_pixels_and_half_supervised_cells_count():
    target = torch.zeros(1, 1, 4, 6)
    mask = torch.ones(1, 1, 4, 6, dtype=torch.bool)
    target[..., :2, :2] = 1  # first cell: all ink where supervised
    mask[..., 0, 0] = False
    mask[..., :2, 2] = False  # second cell: half supervised
    mask[..., :2, 4:] = False
    mask[..., 1, 5] = True  # third: a quarter
    target[..., 2, 0] = 1  # fourth: a quarter ink
    share, counted = pool_to(target * mask, mask, (2, 3))
    assert counted.tolist() == [[[[True, True, False], [True, True, True]]]]
    assert share[counted].tolist() == [1.0, 0.0, 0.25, 0.0, 0.0]
    assert share[~counted].tolist() == [0.0]


def test_deep_supervision_is_the_mean_over_heads_and_ms_ssim_reads_the_finest():
    label = blobs(16)
    fine, coarse = guess(label), noise(17, 2, 1, 8, 8)
    mask = full(label)
    both = make_loss("bce+ms_ssim")(Heads([fine, coarse]), label, mask)[1]
    singles = [make_loss("bce+ms_ssim")(Heads([head]), label, mask)[1] for head in (fine, coarse)]
    torch.testing.assert_close(both["bce"], (singles[0]["bce"] + singles[1]["bce"]) / 2)
    torch.testing.assert_close(both["ms_ssim"], singles[0]["ms_ssim"])


def test_the_total_is_the_weighted_sum_of_the_parts():
    label = blobs(18)
    total, parts = make_loss({"focal": 20, "dice": 1.5})(Heads([guess(label)]), label, full(label))
    assert list(parts) == ["focal", "dice"]
    torch.testing.assert_close(total, 20 * parts["focal"] + 1.5 * parts["dice"])


def test_the_default_is_focal_jaccard_ms_ssim():
    assert make_loss().weights == {"focal": 1.0, "jaccard": 1.0, "ms_ssim": 1.0}
    assert parse_spec(DEFAULT_LOSS) == parse_spec("focal + jaccard + ms_ssim")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("focal+jacard", r"unknown loss 'jacard'; did you mean jaccard\? \(allowed: focal, bce"),
        ("ms-ssim", r"did you mean ms_ssim"),
        ("focal+focal", r"twice"),
        ("", r"unknown loss ''"),
        ({}, r"empty"),
        ({"dice": -1}, r"dice: weight -1"),
        ({"dice": "much"}, r"weight 'much'"),
        ({"dice": math.nan}, r"weight nan"),
        ({"dice": 0}, r"no weight above 0"),
        ({"tversky": {"alhpa": 0.7}}, r"tversky takes no 'alhpa'; did you mean alpha\? \(allowed: weight, alpha, beta"),
        ({"dice": {"alpha": 0.7}}, r"dice takes no 'alpha' \(allowed: weight\)"),
        ({"focal": {"alpha": 1.5}}, r"focal: alpha 1.5 is not a number from 0 to 1"),
        ({"cldice": {"iterations": 2.5}}, r"iterations 2.5 is not a whole number from 0 to 50"),
        ({"tversky": {"alpha": 0, "beta": 0}}, r"both 0"),
        ({"focal": {"weight": -2, "gamma": 1}}, r"focal: weight -2"),
        ({"iou": 1, "dice": 0}, r"train no mask; add one of focal"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(spec, message):
    with pytest.raises(ValueError, match=message):
        make_loss(spec)


@pytest.mark.parametrize(("smoothing", "classes"), [(0.5, 1), (-0.1, 1), (0.34, 3)])
def test_smoothing_that_turns_labels_over_is_refused(smoothing, classes):
    with pytest.raises(ValueError, match="smoothing"):
        make_loss("bce", smoothing=smoothing, classes=classes)


def test_shapes_that_do_not_belong_together_are_refused():
    label = blobs(19)
    with pytest.raises(ValueError, match=r"expected \(2, 1, h, w\)"):
        one("bce", noise(1, 2, 3, 64, 64), label, full(label))
    with pytest.raises(ValueError, match="of one shape"):
        one("bce", guess(label), label, full(label)[:, 0])
    with pytest.raises(ValueError, match=r"the label holds class 1.*classes=2|holds class 3, the model has 3 classes"):
        one("bce", noise(1, 2, 3, 64, 64), label * 3, full(label), classes=3)

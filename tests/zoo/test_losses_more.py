"""Tversky, Lovász, clDice, boundary and soft BCE against their libraries; parameters and presets of a loss."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.losses import PRESETS, make_loss, parse_spec, signed_distance
from zoo.models.base import Heads


def blobs(seed: int, *, side: int = 64) -> Tensor:
    """(2, 1, side, side) uint8 labels with smooth borders, some ink in each."""
    coarse = torch.randn(2, 1, side // 8, side // 8, generator=torch.Generator().manual_seed(seed))
    return (F.interpolate(coarse, size=(side, side), mode="bicubic") > 0.3).to(torch.uint8)


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def full(label: Tensor) -> Tensor:
    return torch.ones_like(label, dtype=torch.bool)


def one(spec, logits: Tensor, label: Tensor, mask: Tensor, **options) -> Tensor:
    return make_loss(spec, **options)(Heads([logits]), label, mask)[0]


LABEL = blobs(1)
LOGITS = LABEL.float() * 4 - 2 + noise(2, 2, 1, 64, 64)
CLASSES = blobs(3) + blobs(4)
CLASS_LOGITS = noise(5, 2, 3, 64, 64)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- the same values as the libraries -------------------------------------------------------------------------------


def test_tversky_equals_smp_and_monai():
    from monai.losses import TverskyLoss as MonaiTversky
    from segmentation_models_pytorch.losses import TverskyLoss

    spec = {"tversky": {"alpha": 0.7, "beta": 0.2}}
    got, truth = one(spec, LOGITS, LABEL, full(LABEL)), LABEL.float()
    torch.testing.assert_close(got, TverskyLoss("binary", alpha=0.7, beta=0.2)(LOGITS, truth))
    monai = MonaiTversky(sigmoid=True, batch=True, alpha=0.7, beta=0.2, smooth_nr=0, smooth_dr=1e-7)
    torch.testing.assert_close(got, monai(LOGITS, truth), rtol=1e-5, atol=1e-6)
    got = one(spec, CLASS_LOGITS, CLASSES, full(CLASSES), classes=3)
    expected = TverskyLoss("multiclass", alpha=0.7, beta=0.2)(CLASS_LOGITS, CLASSES[:, 0].long())
    torch.testing.assert_close(got, expected)


def test_lovasz_equals_smp():
    from segmentation_models_pytorch.losses import LovaszLoss

    got = one("lovasz", LOGITS, LABEL, full(LABEL))
    torch.testing.assert_close(got, LovaszLoss("binary")(LOGITS, LABEL.long()))
    got = one("lovasz", CLASS_LOGITS, CLASSES, full(CLASSES), classes=3)
    torch.testing.assert_close(got, LovaszLoss("multiclass")(CLASS_LOGITS, CLASSES[:, 0].long()))


def test_cldice_equals_monai_tile_by_tile():
    from monai.losses import SoftclDiceLoss

    library = SoftclDiceLoss(iter_=5)
    expected = torch.stack([library(LOGITS[i : i + 1].sigmoid(), LABEL[i : i + 1].float()) for i in range(2)]).mean()
    got = one({"cldice": {"iterations": 5}}, LOGITS, LABEL, full(LABEL))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)  # monai adds 1e-4 to the denominator of the mean
    ink = F.one_hot(CLASSES[:, 0].long(), 3).movedim(-1, 1).float()[:, 1:]
    library, found = SoftclDiceLoss(), CLASS_LOGITS.softmax(1)[:, 1:]
    expected = torch.stack([library(found[i : i + 1], ink[i : i + 1]) for i in range(2)]).mean()
    got = one("cldice", CLASS_LOGITS, CLASSES, full(CLASSES), classes=3)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def test_boundary_equals_monai():
    from monai.losses import BoundaryLoss

    got = one("boundary", LOGITS, LABEL, full(LABEL))
    torch.testing.assert_close(got, BoundaryLoss(sigmoid=True)(LOGITS, LABEL.float()))
    expected = BoundaryLoss(softmax=True, include_background=False, to_onehot_y=True)(CLASS_LOGITS, CLASSES.long())
    torch.testing.assert_close(one("boundary", CLASS_LOGITS, CLASSES, full(CLASSES), classes=3), expected)


def test_soft_bce_equals_smp_and_torch():
    from segmentation_models_pytorch.losses import SoftBCEWithLogitsLoss

    got = one("soft_bce", LOGITS, LABEL, full(LABEL))
    torch.testing.assert_close(got, SoftBCEWithLogitsLoss(smooth_factor=0.25)(LOGITS, LABEL.float()))
    got = one({"soft_bce": {"smoothing": 0.2}}, CLASS_LOGITS, CLASSES, full(CLASSES), classes=3)
    expected = F.cross_entropy(CLASS_LOGITS, CLASSES[:, 0].long(), label_smoothing=0.2 * 3 / 2)
    torch.testing.assert_close(got, expected)


def test_focal_with_alpha_and_gamma_equals_smp_and_monai():
    from monai.losses import FocalLoss as MonaiFocal
    from segmentation_models_pytorch.losses import FocalLoss

    spec, truth = {"focal": {"alpha": 0.3, "gamma": 1.5}}, LABEL.float()
    got = one(spec, LOGITS, LABEL, full(LABEL))
    torch.testing.assert_close(got, FocalLoss("binary", alpha=0.3, gamma=1.5)(LOGITS, truth))
    torch.testing.assert_close(got, MonaiFocal(alpha=0.3, gamma=1.5)(LOGITS, truth))
    got = one(spec, CLASS_LOGITS, CLASSES, full(CLASSES), classes=3)
    monai = MonaiFocal(alpha=0.3, gamma=1.5, use_softmax=True, to_onehot_y=True)
    torch.testing.assert_close(got, 3 * monai(CLASS_LOGITS, CLASSES))  # monai's mean is over the classes too


@pytest.mark.parametrize("gamma", [0, 0.5, 1])
def test_focal_of_a_low_gamma_has_a_finite_gradient_where_nothing_is_wrong(gamma):
    logits = torch.where(LABEL > 0, 1e4, -1e4).requires_grad_()
    one({"focal": {"gamma": gamma}}, logits, LABEL, full(LABEL)).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


# --- what is special about each -------------------------------------------------------------------------------------


def test_dice_and_jaccard_are_points_of_tversky():
    for name, weight in (("dice", 0.5), ("jaccard", 1.0)):
        spec = {"tversky": {"alpha": weight, "beta": weight}}
        assert torch.equal(one(spec, LOGITS, LABEL, full(LABEL)), one(name, LOGITS, LABEL, full(LABEL)))


def test_tversky_with_a_large_beta_minds_missed_ink_more_than_false_ink():
    missed = torch.where(LABEL > 0, -1.0, -9.0)
    false = torch.where(LABEL > 0, 9.0, 1.0)
    for spec, worse, better in (
        ({"tversky": {"alpha": 0.1, "beta": 0.9}}, missed, false),
        ({"tversky": {"alpha": 0.9, "beta": 0.1}}, false, missed),
    ):
        assert one(spec, worse, LABEL, full(LABEL)) > one(spec, better, LABEL, full(LABEL))


def test_distances_are_measured_to_pixels_that_count():
    ink = torch.zeros(1, 1, 1, 9, dtype=torch.bool)
    ink[..., 2:5] = True
    counted = torch.ones_like(ink)
    assert signed_distance(ink, counted).flatten().tolist() == [2, 1, 0, -1, 0, 1, 2, 3, 4]
    counted[..., :2] = False  # where the ink ends on the left is not known
    assert signed_distance(ink, counted)[..., 2:].flatten().tolist() == [-2, -1, 0, 1, 2, 3, 4]
    assert not signed_distance(ink, ink).any()
    assert not signed_distance(ink, ~ink).any()


def test_boundary_of_a_coarse_head_is_in_pixels_of_the_tile():
    label = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    label[..., :16] = 1
    mask, certain = full(label), 100.0
    # columns of 8 px at 0, 1, 2, 3: distances -8, 0, 8, 16 px; the prediction holds the third
    logits = torch.full((1, 1, 4, 4), -certain)
    logits[..., 2] = certain
    torch.testing.assert_close(one("boundary", logits, label, mask), torch.tensor(8 / 4))


def test_descending_the_boundary_loss_leaves_only_the_border_unlearnt():
    logits = (1.0 - 2 * LABEL.float()).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(30):
        optimizer.zero_grad()
        one("boundary", logits, LABEL, full(LABEL)).backward()
        optimizer.step()
    border = signed_distance(LABEL > 0, full(LABEL)) == 0
    assert ((logits > 0) == (LABEL > 0))[~border].all()


def test_cldice_minds_a_broken_stroke_that_dice_hardly_sees():
    label = torch.zeros(1, 1, 48, 48, dtype=torch.uint8)
    label[..., 22:25, 4:44] = 1
    broken = label.clone()
    broken[..., 20:27, 22:24] = 0
    thinner = label.clone()
    thinner[..., 24, 4:8] = 0  # as many pixels, without a break
    assert (label - broken).sum() == 6
    losses = {
        name: [one(name, shape.float() * 40 - 20, label, full(label)) for shape in (broken, thinner)]
        for name in ("cldice", "dice")
    }
    assert losses["cldice"][0] > 5 * losses["cldice"][1]
    assert losses["dice"][0] < 2 * losses["dice"][1]


def test_descending_cldice_with_dice_lowers_both():
    logits = noise(6, 2, 1, 64, 64).requires_grad_()
    loss, optimizer = make_loss("dice+cldice"), torch.optim.Adam([logits], lr=0.3)
    seen = []
    for _ in range(30):
        optimizer.zero_grad()
        total, parts = loss(Heads([logits]), LABEL, full(LABEL))
        total.backward()
        optimizer.step()
        seen.append(parts)
    assert all(seen[-1][name] < 0.5 * seen[0][name] for name in ("dice", "cldice"))


def test_a_tile_without_a_supervised_pixel_is_left_out_of_cldice():
    mask = full(LABEL)
    mask[1] = False
    both = one("cldice", LOGITS, LABEL, mask)
    torch.testing.assert_close(both, one("cldice", LOGITS[:1], LABEL[:1], mask[:1]))


def test_on_a_tile_without_ink_lovasz_trains_the_worst_cell():
    label = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    logits = noise(7, 1, 1, 16, 16).requires_grad_()
    one("lovasz", logits, label, full(label)).backward()
    assert logits.grad is not None
    assert logits.grad.flatten().nonzero().tolist() == [[logits.argmax()]]


# --- how a loss is written ------------------------------------------------------------------------------------------


def test_parameters_are_written_beside_the_weight_and_have_defaults():
    terms = parse_spec({"tversky": {"weight": 2, "alpha": 0.7, "beta": 0.3}, "focal": 20, "cldice": {}})
    assert terms["tversky"].weight == 2 and terms["tversky"].parameters == {"alpha": 0.7, "beta": 0.3}
    assert terms["focal"].weight == 20 and terms["focal"].parameters == {"alpha": None, "gamma": 2.0}
    assert terms["cldice"].weight == 1 and terms["cldice"].parameters == {"iterations": 3}


def test_a_training_configuration_holds_parameters_and_gives_them_back(tmp_path):
    from zoo.train.config import TrainConfig, load_train_config

    path = tmp_path / "config.yaml"
    path.write_text("loss: {tversky: {weight: 1, alpha: .7, beta: .3}, bce: .5}\n")
    config = load_train_config(path)
    assert config.loss == {"tversky": {"weight": 1, "alpha": 0.7, "beta": 0.3}, "bce": 0.5}
    assert TrainConfig.model_validate_json(config.model_dump_json()).loss == config.loss
    assert make_loss(config.loss).weights == {"tversky": 1.0, "bce": 0.5}


def test_presets_are_the_published_sums():
    assert parse_spec("sam") == parse_spec({"focal": 20, "dice": 1, "iou": 1})
    total, parts = make_loss("repmode")(Heads([LOGITS]), LABEL, full(LABEL))
    assert list(parts) == ["focal", "dice", "soft_bce"]
    torch.testing.assert_close(total, sum(parts.values()) / 3)
    assert math.isclose(parse_spec("repmode")["focal"].parameters["alpha"] or 0, 0.3)
    assert all(parse_spec(name) for name in PRESETS)


def test_a_loss_of_weight_nought_is_not_computed():
    assert list(make_loss({"dice": 1, "cldice": 0})(Heads([LOGITS]), LABEL, full(LABEL))[1]) == ["dice"]

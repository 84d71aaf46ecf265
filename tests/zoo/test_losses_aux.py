"""Losses of the IoU and the presence of ink that a model predicts, and the choice among candidate masks."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.losses import actual_iou, make_loss
from zoo.models.base import Heads


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def label_of(seed: int, batch: int = 3, side: int = 32) -> Tensor:
    return (F.interpolate(noise(seed, batch, 1, 4, 4), size=(side, side), mode="bicubic") > 0.2).to(torch.uint8)


def full(label: Tensor) -> Tensor:
    return torch.ones_like(label, dtype=torch.bool)


LABEL = label_of(1)
HALF = full(LABEL)
HALF[..., 20:] = False


# --- IoU ------------------------------------------------------------------------------------------------------------


def test_the_actual_iou_is_that_of_the_supervised_pixels():
    logits = noise(2, 3, 1, 32, 32)
    found, truth = (logits > 0)[..., :20], (LABEL > 0)[..., :20]
    expected = (found & truth).sum((2, 3)) / (found | truth).sum((2, 3))
    torch.testing.assert_close(actual_iou(logits, LABEL.float() * HALF, HALF), expected)


def test_the_actual_iou_of_a_coarse_mask_is_that_of_its_enlargement():
    logits = noise(3, 3, 1, 8, 8)
    large = F.interpolate(logits, scale_factor=4, mode="nearest")
    torch.testing.assert_close(
        actual_iou(logits, LABEL.float(), full(LABEL)), actual_iou(large, LABEL.float(), full(LABEL))
    )


def test_the_actual_iou_of_several_classes_is_that_of_the_largest():
    index = label_of(4)[:, 0].long() + label_of(5)[:, 0].long()
    logits = noise(6, 3, 3, 32, 32)
    got = actual_iou(logits, F.one_hot(index, 3).movedim(-1, 1).float(), full(LABEL))
    best = logits.argmax(1)
    for c in range(3):
        both, either = (best == c) & (index == c), (best == c) | (index == c)
        torch.testing.assert_close(got[:, c], both.sum((1, 2)) / either.sum((1, 2)))


def test_nothing_found_where_nothing_is_has_an_iou_of_one():
    nothing = torch.zeros(1, 1, 8, 8)
    assert actual_iou(nothing - 1, nothing, nothing == 0).item() == 1
    assert actual_iou(nothing + 1, nothing, nothing == 0).item() == 0


def test_a_model_that_predicts_its_iou_is_trained_to_without_being_told():
    logits, iou = noise(7, 3, 1, 32, 32).requires_grad_(), noise(8, 3, 1).requires_grad_()
    heads = Heads([logits], {"iou": iou})
    total, parts = make_loss("bce")(heads, LABEL, HALF)
    actual = actual_iou(logits, LABEL.float() * HALF, HALF)
    torch.testing.assert_close(parts["iou"], ((iou - actual) ** 2).mean().detach())
    torch.testing.assert_close(total.detach(), parts["bce"] + parts["iou"])
    total.backward()
    torch.testing.assert_close(iou.grad, 2 * (iou - actual).detach() / 3)
    alone = logits.detach().clone().requires_grad_()
    make_loss("bce")(Heads([alone]), LABEL, HALF)[0].backward()
    assert logits.grad is not None and alone.grad is not None
    assert torch.equal(logits.grad, alone.grad), "the actual IoU gives the mask no gradient"


def test_a_weight_is_obeyed_and_nought_switches_it_off():
    heads = Heads([noise(9, 3, 1, 32, 32)], {"iou": noise(10, 3, 1)})
    total, parts = make_loss({"focal": 20, "dice": 1, "iou": 0.5})(heads, LABEL, HALF)
    assert list(parts) == ["focal", "dice", "iou"]
    torch.testing.assert_close(total, 20 * parts["focal"] + parts["dice"] + 0.5 * parts["iou"])
    assert list(make_loss({"bce": 1, "iou": 0})(heads, LABEL, HALF)[1]) == ["bce"]


@pytest.mark.parametrize("name", ["iou", "presence"])
def test_what_a_model_does_not_predict_cannot_be_asked_for(name):
    heads = Heads([noise(11, 3, 1, 32, 32)], {"gates": noise(12, 2, 2)})
    with pytest.raises(ValueError, match=rf"names {name}, which this model does not predict .*leave {name} out"):
        make_loss({"bce": 1, name: 1})(heads, LABEL, HALF)
    assert list(make_loss({"bce": 1, name: 0})(heads, LABEL, HALF)[1]) == ["bce"]


# --- presence -------------------------------------------------------------------------------------------------------


def test_presence_is_told_from_supervised_pixels_and_unsupervised_tiles_are_left_out():
    label = torch.zeros(4, 1, 16, 16, dtype=torch.uint8)
    mask = full(label)
    label[0, 0, 3, 3] = 1  # one pixel of ink
    label[1, 0, :, 12:] = 1  # ink where it does not count
    mask[1, 0, :, 12:] = False
    mask[3] = False  # tile 2 is blank, tile 3 unknown
    logits = noise(13, 4, 2)
    heads = Heads([noise(14, 4, 1, 16, 16)], {"presence": logits})
    parts = make_loss("bce")(heads, label, mask)[1]
    torch.testing.assert_close(parts["presence"], F.cross_entropy(logits[:3], torch.tensor([1, 0, 0])))


def test_presence_with_several_classes_is_of_any_but_the_background():
    label = torch.tensor([0, 2]).reshape(2, 1, 1, 1).expand(2, 1, 16, 16)
    logits = noise(15, 2, 2)
    heads = Heads([noise(16, 2, 3, 16, 16)], {"presence": logits})
    parts = make_loss("bce", classes=3)(heads, label, full(label))[1]
    torch.testing.assert_close(parts["presence"], F.cross_entropy(logits, torch.tensor([0, 1])))


# --- candidates -----------------------------------------------------------------------------------------------------


def candidates() -> tuple[Heads, Tensor, Tensor]:
    """Three candidates a tile, of which number `best[b]` follows the label; and the IoU predicted of each."""
    best = torch.tensor([2, 0, 1])
    masks = noise(17, 3, 3, 16, 16)
    masks[torch.arange(3), best] = F.avg_pool2d(LABEL.float(), 2)[:, 0] * 2.4 - 1.2
    masks.requires_grad_()
    iou = noise(18, 3, 3).requires_grad_()
    return Heads([masks[:, :1]], {"masks": masks, "iou": iou}), masks, best


@pytest.mark.parametrize(
    "name", ["focal", "bce", "soft_bce", "jaccard", "dice", "tversky", "lovasz", "cldice", "boundary"]
)
def test_each_tile_trains_its_best_candidate_alone(name):
    heads, masks, best = candidates()
    make_loss(name)(heads, LABEL, HALF)[0].backward()
    assert masks.grad is not None
    trained = masks.grad.flatten(2).any(dim=2)
    assert torch.equal(trained, F.one_hot(best, 3).bool())
    assert heads.aux["iou"].grad is not None
    assert heads.aux["iou"].grad.all(), "every candidate's IoU is learnt"


def test_the_loss_of_candidates_is_that_of_the_chosen_ones():
    heads, masks, best = candidates()
    chosen = masks[torch.arange(3), best][:, None].detach()
    early = noise(19, 3, 1, 8, 8)
    heads.logits.append(early)
    spec = {"focal": 20, "dice": 1, "ms_ssim": 1, "iou": 1}
    parts = make_loss(spec)(heads, LABEL, HALF)[1]
    plain = make_loss("focal+dice+ms_ssim")(Heads([chosen, early]), LABEL, HALF)[1]
    for name, value in plain.items():
        torch.testing.assert_close(parts[name], value)
    error = heads.aux["iou"] - actual_iou(masks, LABEL.float() * HALF, HALF)
    torch.testing.assert_close(parts["iou"], (error**2).mean().detach())


def test_the_choice_weighs_the_losses():
    """One candidate is blank, the other the label with a certain hole: BCE minds certainty, Dice the ink missed."""
    label = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    label[..., :4] = 1
    blank = torch.full((1, 1, 16, 16), -1.0)
    holed = torch.where(label > 0, 9.0, -9.0)
    holed[..., :4, :4] = -200.0
    choice = {}
    for name, other in (("bce", "dice"), ("dice", "bce")):
        masks = torch.cat([blank, holed], dim=1).requires_grad_()
        heads = Heads([masks[:, :1]], {"masks": masks})
        make_loss({name: 1, other: 1e-3})(heads, label, full(label))[0].backward()
        assert masks.grad is not None
        choice[name] = masks.grad.flatten(2).any(dim=2)[0].tolist()
    assert choice == {"bce": [True, False], "dice": [False, True]}


# --- masked, finite, refused ----------------------------------------------------------------------------------------


def test_outside_the_mask_nothing_changes_an_auxiliary_loss_or_the_choice():
    results = []
    for outside, label in ((None, LABEL), (math.nan, torch.where(HALF, LABEL, 1 - LABEL))):
        _, masks, _ = candidates()
        masks = masks.detach().clone()
        if outside is not None:
            masks[..., 10:] = outside
        masks.requires_grad_()
        iou, presence = noise(20, 3, 3).requires_grad_(), noise(21, 3, 2).requires_grad_()
        heads = Heads([masks[:, :1]], {"masks": masks, "iou": iou, "presence": presence})
        total, parts = make_loss("focal+dice")(heads, label, HALF)
        total.backward()
        results.append([total.detach(), *parts.values(), masks.grad, iou.grad, presence.grad])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("kind", ["black", "ink", "masked", "one tile"])
@pytest.mark.parametrize("classes", [1, 3])
def test_auxiliary_losses_are_finite(kind, classes):
    label = torch.full((2, 1, 16, 16), int(kind == "ink"), dtype=torch.uint8)
    mask = torch.full_like(label, kind != "masked", dtype=torch.bool)
    if kind == "one tile":
        mask[0] = False
    aux = {"iou": noise(22, 2, classes), "presence": noise(23, 2, 2) * 1e4}
    if classes == 1:
        aux = {**aux, "masks": noise(24, 2, 3, 16, 16) * 1e4, "iou": noise(25, 2, 3)}
    for value in aux.values():
        value.requires_grad_()
    heads = Heads([noise(26, 2, classes, 16, 16).requires_grad_()], aux)
    total, parts = make_loss("bce+dice", classes=classes)(heads, label, mask)
    total.backward()
    assert total.isfinite()
    assert set(parts) == {"bce", "dice", "iou", "presence"}
    for name, value in aux.items():
        assert value.grad is not None and value.grad.isfinite().all(), name
        if kind == "masked":
            assert not value.grad.any(), name
        if kind == "one tile":
            assert not value.grad[0].any(), name
    if kind == "masked":
        assert total == 0


def test_wrong_shapes_and_impossible_candidates_are_refused():
    logits, masks = noise(27, 3, 1, 16, 16), noise(28, 3, 4, 16, 16)
    with pytest.raises(ValueError, match=r"aux\['iou'\] of shape \(3, 1\), expected \(3, 4\)"):
        make_loss("bce")(Heads([logits], {"masks": masks, "iou": noise(1, 3, 1)}), LABEL, HALF)
    with pytest.raises(ValueError, match=r"aux\['presence'\] of shape \(3,\), expected \(3, 2\)"):
        make_loss("bce")(Heads([logits], {"presence": noise(1, 3)}), LABEL, HALF)
    with pytest.raises(ValueError, match=r"candidates are of one class"):
        make_loss("bce", classes=3)(Heads([noise(1, 3, 3, 16, 16)], {"masks": masks}), LABEL, HALF)
    with pytest.raises(ValueError, match=r"which ms_ssim cannot tell; add one of focal"):
        make_loss("ms_ssim")(Heads([logits], {"masks": masks}), LABEL, HALF)


def test_sam_trains_its_iou_head():
    from zoo import create_model

    torch.manual_seed(0)
    model = create_model("sam_tiny", depth=4, tile=32)
    label = label_of(29, batch=2)
    total, parts = make_loss("sam")(model.heads(noise(30, 2, 1, 4, 32, 32)), label, full(label))
    assert set(parts) == {"focal", "dice", "iou"}
    total.backward()
    trained = [p.grad for name, p in model.named_parameters() if "iou_prediction_head" in name]
    assert trained
    assert all(grad is not None and grad.isfinite().all() for grad in trained)
    assert any(grad.any() for grad in trained)

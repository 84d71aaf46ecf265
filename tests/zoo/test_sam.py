from itertools import pairwise

import pytest
import torch

from tests.zoo.small_sam import small, their_sam
from zoo.models.sam import SIZES, build_sam_tiny, build_sam_vit_b
from zoo.registry import create_model

VITS = ("sam_vit_b", "sam_vit_l", "sam_vit_h")


def count(module, *, trained=False):
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def test_a_batch_of_volumes_equals_segment_anything_one_by_one():
    model = small()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        masks, iou = model.decode(model.encode(images))
        theirs = their_sam(model)(
            [{"image": image, "original_size": (64, 64)} for image in images], multimask_output=False
        )
    for i, expected in enumerate(theirs):
        torch.testing.assert_close(masks[i : i + 1], expected["low_res_logits"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(iou[i : i + 1], expected["iou_predictions"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "total", "encoder"),
    [
        ("sam_vit_b", 93_735_472, 89_670_912),
        ("sam_vit_l", 312_342_832, 308_278_272),
        ("sam_vit_h", 641_090_608, 637_026_048),
    ],
)
def test_the_variants_have_sams_parameters(name, total, encoder):
    with torch.device("meta"):
        model = create_model(name, depth=16, tile=1024)
    assert count(model.image_encoder) == encoder
    assert count(model.prompt_encoder) == 6_220
    assert count(model.mask_decoder) == 4_058_340
    assert count(model) - count(model.compress) == total


@pytest.mark.parametrize(("depth", "classes"), [(1, 1), (13, 1), (16, 3)])
def test_tiny_heads_come_out_at_half_with_an_iou_a_class(depth, classes):
    model = build_sam_tiny(depth=depth, tile=32, classes=classes)
    volume = torch.randn(2, 1, depth, 32, 48)
    heads = model.heads(volume)
    assert heads.logits[0].shape == (2, classes, 16, 24)
    assert heads.aux["iou"].shape == (2, classes)
    assert model(volume).shape == (2, classes, 32, 48)


def test_vit_layout_gives_masks_at_a_quarter_for_any_tile():
    model = small(classes=2)
    heads = model.heads(torch.randn(1, 1, 5, 96, 80))
    assert [head.shape for head in heads.logits] == [(1, 2, 24, 20)]


def test_every_trainable_parameter_gets_a_gradient():
    model = build_sam_tiny(depth=4, tile=32)
    heads = model.heads(torch.randn(2, 1, 4, 32, 32))
    assert [head.shape[-1] for head in heads.logits] == [16, 8]
    (sum(head.sum() for head in heads.logits) + heads.aux["iou"].sum()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert not any(p.requires_grad for p in model.prompt_encoder.mask_downscaling.parameters())


def test_order_of_the_layers_matters():
    torch.manual_seed(0)
    model = build_sam_tiny(depth=6, tile=32)
    volume = torch.randn(4, 1, 6, 32, 32)
    assert (model(volume) - model(volume.flip(2))).abs().max() > 0.01


@pytest.mark.parametrize("training", [False, True])
def test_of_three_candidates_the_one_of_highest_predicted_iou_is_the_answer(training):
    model = small(multimask=True).train(training)
    heads = model.heads(torch.randn(4, 1, 5, 64, 64))
    masks, iou = heads.aux["masks"], heads.aux["iou"]
    assert masks.shape == (4, 3, 16, 16) and iou.shape == (4, 3)
    assert heads.logits[0].shape == (4, 1, 16, 16)
    for sample in range(4):
        assert torch.equal(heads.logits[0][sample, 0], masks[sample, iou[sample].argmax()])
    (masks.square().mean() + iou.square().mean()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_tiny_gives_candidates_too_with_tokens_of_their_own():
    model = build_sam_tiny(depth=3, tile=32, multimask=True)
    assert model.heads(torch.randn(1, 1, 3, 32, 32)).aux["masks"].shape == (1, 3, 16, 16)
    assert len(model.mask_decoder.mask_tokens.weight) == 4


def test_candidates_of_several_classes_are_refused():
    with pytest.raises(ValueError, match="multimask gives candidates for one class, not for 2"):
        build_sam_vit_b(depth=2, tile=64, classes=2, multimask=True)


def test_decay_goes_by_the_blocks_behind_a_parameter():
    model = small()
    scales = model.learning_rate_scales(0.5)
    assert set(scales) <= {name for name, _ in model.named_parameters()}
    assert scales["image_encoder.patch_embed.proj.weight"] == scales["image_encoder.pos_embed"] == 0.125
    assert scales["image_encoder.blocks.0.attn.qkv.weight"] == 0.25
    assert scales["image_encoder.blocks.1.norm1.bias"] == 0.5
    assert scales["image_encoder.neck.0.weight"] == 1
    assert not any(name.startswith(("mask_decoder", "compress")) for name in scales)
    assert set(model.learning_rate_scales(1.0).values()) == {1.0}


@pytest.mark.parametrize("name", VITS)
def test_global_blocks_close_each_quarter_of_the_encoder(name):
    size = SIZES[name]
    assert size.global_blocks[-1] == size.blocks - 1
    assert {after - before for before, after in pairwise(size.global_blocks)} == {size.blocks // 4}


def test_tile_that_does_not_fit_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"sam_vit_b: tile 100 px.*nearest is 96"):
        build_sam_vit_b(depth=2, tile=100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": "zip"}, r"compression 'zip' is not possible; there are conv, inflated, mean, mosaic, fused"),
        ({"pretrained": "sam_vit_h"}, r"sam_vit_b: pretrained='sam_vit_h' is not possible; true or 'sam_vit_b'"),
        ({"pretrained": True, "checkpoint": "here.pth"}, "give one of the two"),
    ],
)
def test_options_that_are_not_possible_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_sam_vit_b(depth=2, tile=64, **options)

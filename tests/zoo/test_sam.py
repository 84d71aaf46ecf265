import hashlib
from dataclasses import replace

import pytest
import torch
from segment_anything.modeling import Sam
from torch import nn

from zoo.models import sam
from zoo.models.sam import SIZES, SamInk, build_sam_tiny, build_sam_vit_b, load_official, read_official, three_channels

# Laid out as ViT-B is (windows, one global block, 16-px patches, three channels, four mask tokens), but small.
SMALL = replace(
    SIZES["sam_vit_b"],
    width=32,
    blocks=2,
    heads=2,
    global_blocks=(1,),
    window=3,
    embedding=32,
    decoder_heads=2,
    decoder_mlp=32,
)


def small(tile=64, classes=1, depth=5, seed=0):
    torch.manual_seed(seed)
    model = SamInk(sam.CARDS["sam_vit_b"], SMALL, three_channels, depth=depth, tile=tile, classes=classes)
    for name, parameter in model.named_parameters():
        if "rel_pos" in name:  # the library starts them at zero, where an error could hide
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def as_sam(model):
    """segment_anything's own assembly of the same modules."""
    ones, zeros = [1.0] * 3, [0.0] * 3
    return Sam(model.image_encoder, model.prompt_encoder, model.mask_decoder, pixel_mean=zeros, pixel_std=ones)


def test_a_batch_of_images_equals_segment_anything_one_by_one():
    model = small()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        masks, iou = model.decode(model.encode(images))
        theirs = as_sam(model)(
            [{"image": image, "original_size": (64, 64)} for image in images], multimask_output=False
        )
    for i, expected in enumerate(theirs):
        torch.testing.assert_close(masks[i : i + 1], expected["low_res_logits"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(iou[i : i + 1], expected["iou_predictions"], atol=1e-4, rtol=1e-4)


def test_vit_b_has_sams_parameters():
    with torch.device("meta"):
        model = build_sam_vit_b(depth=16, tile=1024)

    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(model.image_encoder) == 89_670_912
    assert count(model.prompt_encoder) == 6_220
    assert count(model.mask_decoder) == 4_058_340
    assert count(model) - count(model.compress) == 93_735_472


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


@pytest.mark.parametrize("depth", [1, 2, 3, 16])
def test_compression_starts_as_slab_means(depth):
    volume = torch.randn(1, 1, depth, 8, 8)
    image = three_channels(depth)(volume)
    assert image.shape == (1, 3, 8, 8)
    torch.testing.assert_close(image[:, 0], volume[:, 0, : max(1, depth // 3)].mean(1))
    torch.testing.assert_close(image[:, 2], volume[:, 0, 2 * depth // 3 :].mean(1))


def official(model):
    """What an official checkpoint of `model` would hold: everything but the Z compression."""
    return {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("compress.")}


def test_checkpoint_gives_the_same_answers(tmp_path):
    source, target = small(seed=1), small(seed=2)
    path = tmp_path / "sam.pth"
    torch.save(official(source), path)
    load_official(target, read_official(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
    volume = torch.randn(1, 1, 5, 64, 64)
    assert torch.equal(target(volume), source(volume))


def test_checkpoint_of_another_tile_answers_as_if_resized_while_running():
    source, target = small(tile=64, seed=1), small(tile=96, seed=2)
    load_official(target, official(source))
    assert target.state_dict()["image_encoder.blocks.1.attn.rel_pos_h"].shape[0] == 2 * 6 - 1
    volume = torch.randn(1, 1, 5, 96, 96)
    torch.testing.assert_close(target(volume), source(volume), atol=1e-4, rtol=1e-4)


def test_checkpoint_fits_more_classes_than_it_has_tokens():
    source, target = small(seed=1), small(classes=6, seed=2)
    load_official(target, official(source))
    tokens = target.mask_decoder.mask_tokens.weight
    assert torch.equal(tokens[:4], source.mask_decoder.mask_tokens.weight)


def test_absent_or_altered_checkpoint_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"segment_anything/.*SHA-256 ec2df627"):
        build_sam_vit_b(depth=2, tile=64, checkpoint=tmp_path / "none.pth")
    path = tmp_path / "sam.pth"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="not the official file"):
        build_sam_vit_b(depth=2, tile=64, checkpoint=path)


def test_checkpoint_of_another_network_is_refused():
    tensors = official(small())
    tensors["image_encoder.neck.0.weight"] = torch.zeros(8, 8, 1, 1)
    with pytest.raises(ValueError, match=r"does not fit sam_vit_b.*neck\.0\.weight \(8, 8, 1, 1\)"):
        load_official(small(), tensors)
    with pytest.raises(ValueError, match=r"not of it \['encoder\.weight'\]"):
        load_official(small(), {"encoder.weight": torch.zeros(1)})


def test_tile_that_does_not_fit_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"sam_vit_b: tile 100 px.*nearest is 96"):
        build_sam_vit_b(depth=2, tile=100)

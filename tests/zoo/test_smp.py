from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch

from zoo.models.smp_2d import (
    CARDS,
    build_smp_dpt,
    build_smp_linknet,
    build_smp_pspnet,
    build_smp_unet,
)
from zoo.registry import create_model, list_models

SMALL_ENCODER = "mobilenetv3_small_050"  # of timm


def test_every_decoder_is_registered():
    assert sorted(list_models("smp")) == sorted(CARDS)


def test_it_is_the_network_of_the_library():
    torch.manual_seed(0)
    model = build_smp_unet(depth=5, tile=64, classes=2, width=16).eval()
    original = smp.Unet("resnet18", encoder_weights=None, in_channels=5, classes=2).eval()
    original.load_state_dict(model.network.state_dict())
    volume = torch.randn(1, 1, 5, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(model(volume), original(volume[:, 0]), atol=0, rtol=0)


def test_the_head_is_what_the_library_upsamples():
    torch.manual_seed(0)
    model = create_model("smp_fpn", depth=3, tile=64, width=16, encoder=SMALL_ENCODER).eval()
    original = smp.FPN(f"tu-{SMALL_ENCODER}", encoder_weights=None, in_channels=3, classes=1).eval()
    original.load_state_dict(model.network.state_dict())
    volume = torch.randn(1, 1, 3, 64, 64)
    with torch.no_grad():
        ours = model.heads(volume).logits[0]
        upsampled = torch.nn.functional.interpolate(ours, scale_factor=4, mode="bilinear", align_corners=True)
        torch.testing.assert_close(upsampled, original(volume[:, 0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "classes"), [("resnet18", 1), ("tu-resnet10t", 1), (SMALL_ENCODER, 3)])
def test_encoders_of_both_libraries_are_taken_with_and_without_the_prefix(name: str, classes: int):
    model = build_smp_linknet(depth=4, tile=64, classes=classes, encoder=name)
    assert model(torch.randn(2, 1, 4, 64, 64)).shape == (2, classes, 64, 64)


@pytest.mark.parametrize(
    ("reduction", "channels"),
    [("channels", 5), ("zconv", 3), ("mean", 1), ("max", 1), ("tensor", 1), ("attention", 1)],
)
def test_layers_are_channels_or_reduced_first(reduction: str, channels: int):
    model = build_smp_unet(depth=5, tile=64, reduction=reduction, encoder=SMALL_ENCODER, width=2)
    seen = []
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    volume = torch.randn(2, 1, 5, 64, 64)
    model(volume).square().mean().backward()
    assert seen == [channels]
    if model.reduction is not None:
        assert all(parameter.grad is not None for parameter in model.reduction.parameters())


def test_stages_that_a_decoder_does_not_read_are_left_out():
    model = build_smp_pspnet(depth=4, tile=64)
    whole = smp.PSPNet("resnet18", encoder_weights=None, in_channels=4, psp_out_channels=256)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count < sum(parameter.numel() for parameter in whole.parameters()) / 5
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_has_no_gradient_is_frozen():
    model = build_smp_dpt(depth=4, tile=64, width=1)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert all("norm" in name or "head" in name for name in frozen)


def test_building_leaves_statistics_as_they_start():
    model = build_smp_unet(depth=4, tile=64, encoder=SMALL_ENCODER, width=1)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms and model.training
    assert all(norm.num_batches_tracked == 0 and not norm.running_mean.any() for norm in norms)


@pytest.mark.parametrize("name", sorted(CARDS))
def test_a_single_tile_can_be_trained_on(name: str):
    options = {} if name in ("smp_segformer", "smp_dpt") else {"encoder": SMALL_ENCODER}
    model = create_model(name, depth=2, tile=64, **options).train()
    assert model(torch.randn(1, 1, 2, 64, 64)).isfinite().all()


def test_the_licence_of_the_segformer_encoder_is_told():
    assert "mit_b0" in CARDS["smp_segformer"].licence and "NVIDIA" in CARDS["smp_segformer"].licence


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "resnet81"}, "unknown encoder 'resnet81'; the nearest are resnet18"),
        ({"weights": "imagnet"}, "no weights 'imagnet' of resnet18; there are imagenet"),
        ({"reduction": "median"}, "reduction 'median' is not possible; there are channels, zconv"),
        ({"width": 0}, "width 0 is not possible"),
        ({"encoder": "vit_tiny_patch16_224"}, "cannot be built on encoder 'vit_tiny_patch16_224'"),
    ],
)
def test_options_that_are_not_possible_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        build_smp_unet(depth=4, tile=64, **options)


def test_weights_without_a_network_say_what_to_do(monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", offline)
    with pytest.raises(FileNotFoundError, match=r"weights 'imagenet' of resnet18 .* connect to a network once"):
        build_smp_unet(depth=4, tile=64, weights="imagenet")

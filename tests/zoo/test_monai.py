from __future__ import annotations

import pytest
import torch
from monai.networks.nets.segresnet import SegResNet

from zoo.models.layers import Conv3d
from zoo.models.monai_3d import (
    CARDS,
    _rearrange,
    _trust,
    build_monai_dynunet,
    build_monai_segresnet,
    build_monai_swinunetr,
    build_monai_unet,
)
from zoo.registry import create_model, list_models


def test_every_network_is_registered():
    assert sorted(list_models("monai")) == sorted(CARDS)


def test_without_a_stem_it_is_the_network_of_the_library_and_a_mean():
    torch.manual_seed(0)
    model = build_monai_segresnet(depth=12, tile=32, width=8, stem=1, reduction="mean").eval()
    original = SegResNet(3, 8, 1, 1, blocks_down=(1, 2, 2), blocks_up=(1, 1)).eval()
    original.load_state_dict(model.network.state_dict())
    volume = torch.randn(1, 1, 12, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(volume), original(volume).mean(dim=2), atol=0, rtol=0)


@pytest.mark.parametrize("name", ["monai_segresnet", "monai_unet", "monai_dynunet"])
@pytest.mark.parametrize("stem", [1, 2])
def test_the_stem_sets_the_resolution_of_the_head(name: str, stem: int):
    model = create_model(name, depth=3, tile=32, stem=stem, width=8)
    assert model.out_stride == stem
    assert model.heads(torch.randn(1, 1, 3, 32, 48)).logits[0].shape == (1, 1, 32 // stem, 48 // stem)


def test_swin_blocks_read_windows_of_patches_and_the_head_is_at_their_resolution():
    torch.manual_seed(0)
    model = build_monai_swinunetr(depth=3, tile=96).eval()
    assert model.padded_depth == 32
    volume = torch.randn(1, 1, 3, 96, 96)
    with torch.no_grad():
        assert model.heads(volume).logits[0].shape == (1, 1, 32, 32)
        assert (model(volume) - model(volume.flip(2))).abs().max() > 1e-3


def test_its_axes_are_permuted_as_einops_would():
    volume = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(_rearrange(volume, "n c d h w -> n d h w c"), volume.permute(0, 2, 3, 4, 1))
    assert torch.equal(_rearrange(volume, "b d h w c -> b c d h w"), volume.permute(0, 4, 1, 2, 3))


def test_convolutions_that_can_be_trusted_in_bf16_answer_as_those_they_replace():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv3d(2, 3, 3, padding=1), torch.nn.Conv3d(3, 1, 1))
    volume = torch.randn(1, 2, 2, 5, 5)
    before = network(volume)
    _trust(network)
    assert isinstance(network[0], Conv3d)
    torch.testing.assert_close(network(volume), before)


@pytest.mark.parametrize(("depth", "padded"), [(1, 12), (12, 12), (13, 16), (16, 16)])
def test_layers_are_padded_at_the_edges_and_cut_off_again(depth: int, padded: int):
    model = build_monai_unet(depth=depth, tile=32, width=4)
    layers = []
    model.network.register_forward_hook(lambda _, inputs, output: layers.extend([inputs[0], output]))
    model.reduction.register_forward_pre_hook(lambda _, inputs: layers.append(inputs[0]))
    model(torch.randn(1, 1, depth, 32, 32))
    given, made, kept = layers
    assert given.shape[2] == made.shape[2] == padded and kept.shape[2] == depth
    before = (padded - depth) // 2
    assert torch.equal(kept, made[:, :, before : before + depth])
    assert torch.equal(given[:, :, 0], given[:, :, before])


@pytest.mark.parametrize("reduction", ["zconv", "mean", "max", "tensor", "attention"])
def test_any_reduction_takes_z_to_2d(reduction: str):
    model = build_monai_dynunet(depth=5, tile=32, width=4, classes=2, reduction=reduction)
    logits = model(torch.randn(2, 1, 5, 32, 32))
    logits.square().mean().backward()
    assert logits.shape == (2, 2, 32, 32)
    assert all(parameter.grad is not None for parameter in model.reduction.parameters())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("monai_segresnet", {"width": 12}, "width 12 is not possible; a multiple of 8"),
        ("monai_unet", {"width": 0}, "width 0 is not possible"),
        ("monai_dynunet", {"stem": 3}, "stem 3 is not possible; there are 1, 2, 4"),
        ("monai_swinunetr", {"feature_size": 16}, "feature_size 16 is not possible; a multiple of 12"),
        ("monai_unet", {"reduction": "median"}, "unknown reduction of depth 'median'"),
    ],
)
def test_options_that_are_not_possible_are_refused(name: str, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        create_model(name, depth=4, tile=96, **options)

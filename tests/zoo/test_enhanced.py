import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.models.elunet import build_elunet_base, build_elunet_enhanced, build_elunet_enhanced_glu
from zoo.models.enhanced import Enhancement, UpConv, conv_of_upsampled, enhanced_card, max_blur_pool, wide_conv
from zoo.models.unet3plus import CARDS
from zoo.registry import create_model, list_models


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", ["bilinear", "nearest"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_convolution_of_an_upsampled_image_can_be_done_before_it_grows(kind, factor):
    image = torch.randn(2, 20, 5, 3, dtype=torch.float64, requires_grad=True)
    conv = nn.Conv2d(20, 4, 3, padding=1, dtype=torch.float64)
    swapped = conv_of_upsampled(image, conv.weight, conv.bias, factor, kind)
    corners = {"align_corners": False} if kind == "bilinear" else {}
    grown = F.interpolate(image, scale_factor=factor, mode=kind, **corners)
    torch.testing.assert_close(swapped, conv(grown))
    cotangent = torch.randn_like(swapped)
    ours = torch.autograd.grad(swapped, (image, *conv.parameters()), cotangent)
    theirs = torch.autograd.grad(conv(grown), (image, *conv.parameters()), cotangent)
    torch.testing.assert_close(ours, theirs)


def test_the_grown_image_is_neither_made_nor_kept():
    """The greatest tensor kept for the gradient is smaller than the up-sampled channels."""
    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    up, image = UpConv(64, 4, 8, "bilinear"), torch.randn(1, 64, 4, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        up(image)
    assert max(kept) <= max(64 * 4 * 4, up.conv.weight.numel()) < 64 * 32 * 32


def test_blur_pooling_is_a_maximum_then_a_binomial_blur():
    image = torch.randn(2, 3, 8, 6)
    greatest = F.max_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 2, stride=1)  # one more than image each way
    taps = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (taps[:, None] * taps).expand(3, 1, 3, 3)
    torch.testing.assert_close(max_blur_pool(image), F.conv2d(greatest, kernel, stride=2, groups=3))


def test_blur_pooling_moves_less_with_the_image_than_max_pooling():
    """A stroke one pixel wide, moved by one pixel."""

    def change(pool) -> float:
        strokes = torch.zeros(2, 1, 16, 16)
        strokes[0, ..., 7], strokes[1, ..., 8] = 1.0, 1.0
        here, there = pool(strokes)
        return float((here - there).abs().max())

    assert change(max_blur_pool) <= 0.5 < change(lambda image: F.max_pool2d(image, 2)) == 1.0


def test_the_depthwise_kernel_is_the_cheap_one():
    dense, depthwise = wide_conv(32, 64, "dense"), wide_conv(32, 64, "depthwise")
    sizes = [sum(p.numel() for p in conv.parameters()) for conv in (dense, depthwise)]
    assert sizes == [49 * 32 * 64 + 64, 49 * 32 + 32 * 64 + 64]
    image = torch.randn(1, 32, 9, 9)
    assert dense(image).shape == depthwise(image).shape == (1, 64, 9, 9)
    moved = image.clone()
    moved[..., 1, 4] += 1
    for conv in (dense, depthwise):
        changed = (conv(moved) - conv(image)).abs().sum(dim=(0, 1)) > 0
        assert changed[4, 4] and not changed[5, 4], "three pixels each way"


@pytest.mark.parametrize("build", [build_elunet_enhanced, build_elunet_enhanced_glu])
def test_the_enhancements_sit_where_the_card_says(build):
    model = build(depth=3, tile=32)
    glu = build is build_elunet_enhanced_glu
    for number, level in enumerate(model.encoder):
        wide, second = level.block
        assert wide[0].kernel_size == (7, 7)
        assert second[0].dilation == ((2, 2) if number >= 3 else (1, 1))
        assert isinstance(second[2], nn.GLU) == glu and level.blur
    for node in model.decoder:
        assert isinstance(node.block[1][2], nn.GLU) == glu
    assert not any(level.blur for level in build_elunet_base(depth=3, tile=32).encoder)


@pytest.mark.parametrize("name", [name for name in list_models() if "enhanced" in name])
def test_either_kernel_can_be_chosen_and_depthwise_has_fewer_parameters(name):
    with torch.device("meta"):
        dense, depthwise = (create_model(name, depth=16, tile=96, kernel=kernel) for kernel in ("dense", "depthwise"))
    sizes = [sum(p.numel() for p in model.parameters()) for model in (dense, depthwise)]
    assert sizes[1] < 0.7 * sizes[0]


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match="kernel 'wide' is not possible; there are dense, depthwise"):
        Enhancement(kernel="wide")


def test_the_card_of_an_enhanced_network_keeps_the_plain_one():
    plain = CARDS["unet3plus_base"]
    card = enhanced_card(plain, glu=False, cost="twice the time")
    assert card.differs[: len(plain.differs)] == plain.differs and card.differs[-1] == "twice the time"
    assert set(card.options) == {*plain.options, "kernel"}

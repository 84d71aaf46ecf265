import pytest
import torch

from zoo.models.depthcnn import build_depthcnn_base, build_depthcnn_tiny


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_sizes_are_those_on_the_cards():
    assert parameters(build_depthcnn_tiny(depth=13, tile=96)) == 577_617
    assert parameters(build_depthcnn_base(depth=13, tile=96)) == 2_307_233


@pytest.mark.parametrize("depth", [1, 2, 13, 16])
def test_head_comes_out_at_a_sixteenth_for_any_depth(depth):
    model = build_depthcnn_tiny(depth=depth, tile=48, classes=3)
    volume = torch.randn(2, 1, depth, 48, 64)
    assert model.heads(volume).logits[0].shape == (2, 3, 3, 4)
    assert model(volume).shape == (2, 3, 48, 64)


def test_receptive_field_is_87_px():
    """Too small to see that the test region continues a line of writing."""
    model = build_depthcnn_tiny(depth=4, tile=224).eval()
    volume = torch.randn(1, 1, 4, 224, 224, requires_grad=True)
    model.heads(volume).logits[0][0, 0, 7, 7].backward()
    assert volume.grad is not None
    seen = volume.grad.abs().sum((0, 1, 2, 3)).nonzero()
    assert int(seen.max() - seen.min()) + 1 == 87


def test_order_of_the_layers_matters():
    torch.manual_seed(0)
    model = build_depthcnn_tiny(depth=8, tile=32, dropout=(0.0, 0.0))
    volume = torch.randn(4, 1, 8, 32, 32)
    assert (model(volume) - model(volume.flip(2))).abs().max() > 0.1


def test_tile_that_does_not_fit_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"tile 100 px.*multiple of 16.*nearest is 96"):
        build_depthcnn_tiny(depth=13, tile=100)


def test_width_of_nothing_is_refused():
    with pytest.raises(ValueError, match="width 0"):
        build_depthcnn_tiny(depth=13, tile=96, width=0)

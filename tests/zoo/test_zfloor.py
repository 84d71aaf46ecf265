import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.models import zfloor
from zoo.models.zfloor import LayerChoice, build_zbest, build_zmax, build_zmean, build_zstd

BUILDERS = [build_zmean, build_zmax, build_zstd, build_zbest]


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("depth", [1, 13])
def test_heads_come_out_at_a_quarter_and_a_sixteenth(build, depth):
    model = build(depth=depth, tile=32, classes=2)
    volume = torch.randn(2, 1, depth, 32, 48)
    heads = model.heads(volume)
    assert [tuple(x.shape) for x in heads.logits] == [(2, 2, 8, 12), (2, 2, 2, 3)]
    heads.logits[0].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("build", [build_zmean, build_zmax, build_zstd])
def test_order_of_the_layers_is_invisible(build):
    model = build(depth=7, tile=32).eval()
    volume = torch.randn(1, 1, 7, 32, 32)
    torch.testing.assert_close(model(volume), model(volume[:, :, torch.randperm(7)]), atol=1e-5, rtol=1e-5)


def test_capacity_is_that_of_the_3d_network():
    assert 550_000 < sum(p.numel() for p in build_zmean(depth=13, tile=96).parameters()) < 750_000
    assert not any(card.uses_depth for card in zfloor.CARDS.values())


def test_choice_shows_exactly_one_layer_in_training_too():
    torch.manual_seed(0)
    choice = LayerChoice(5)
    volume = torch.randn(16, 1, 5, 4, 4)
    shown = choice(volume)
    same = (shown.unsqueeze(2) == volume).flatten(3).all(3).squeeze(1)
    assert (same.sum(1) == 1).all()
    assert same.any(0).sum() > 1  # it tries several


def test_untrained_choice_is_the_centre_layer():
    choice = LayerChoice(9).eval()
    volume = torch.randn(2, 1, 9, 4, 4)
    assert choice.layer == 4
    assert torch.equal(choice(volume), volume[:, :, 4])


def test_choice_finds_the_layer_that_holds_the_ink():
    torch.manual_seed(0)
    choice, reader = LayerChoice(6), nn.Conv2d(1, 1, 1)
    optimiser = torch.optim.AdamW([*choice.parameters(), *reader.parameters()], lr=5e-3)
    for _ in range(200):
        ink = (torch.rand(8, 1, 8, 8) > 0.5).float()
        volume = torch.randn(8, 1, 6, 8, 8)
        volume[:, :, 1] += 2 * ink
        loss = F.binary_cross_entropy_with_logits(reader(choice(volume)), ink)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert choice.layer == 1

import pytest
import torch

from zoo.models.depth import (
    REDUCTIONS,
    ZAttention,
    ZConv,
    ZLayer,
    ZMax,
    ZMean,
    ZStd,
    ZTensor,
    make_reduction,
    pad_depth,
)


@pytest.fixture
def volume() -> torch.Tensor:
    return torch.randn(2, 3, 5, 4, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_every_reduction_makes_a_map_with_the_channels_it_says(name, volume):
    reduction = make_reduction(name, channels=3, depth=5, out_channels=3)
    assert reduction(volume).shape == (2, reduction.out_channels, 4, 6)


def test_mean_max_std_and_layer_are_what_their_names_say(volume):
    torch.testing.assert_close(ZMean(3)(volume), volume.mean(2))
    assert torch.equal(ZMax(3)(volume), volume.max(2).values)
    torch.testing.assert_close(ZStd(3)(volume), volume.std(2, correction=0), atol=1e-4, rtol=1e-4)
    assert torch.equal(ZLayer(3, index=4)(volume), volume[:, :, 4])


@pytest.mark.parametrize("reduction", [ZMean(3), ZMax(3), ZStd(3)], ids=["mean", "max", "std"])
def test_mean_max_and_std_are_blind_to_the_order_of_the_layers(reduction, volume):
    torch.testing.assert_close(reduction(volume), reduction(volume.flip(2)))


def test_a_convolution_with_z_as_channels_sees_the_order(volume):
    reduction = ZConv(3, 5, 1)
    assert not torch.allclose(reduction(volume), reduction(volume.flip(2)))


def test_a_convolution_with_z_as_channels_makes_as_many_channels_as_asked(volume):
    assert make_reduction("zconv", channels=3, depth=5, out_channels=7)(volume).shape == (2, 7, 4, 6)


def test_attention_starts_as_the_mean_and_can_follow_a_surface(volume):
    reduction = ZAttention(3)
    torch.testing.assert_close(reduction(volume), volume.mean(2))
    volume[:, 0] = 0
    layer = torch.randint(5, (4, 6))
    volume[:, 0].scatter_(1, layer.expand(2, 1, 4, 6), 1.0)
    torch.nn.init.zeros_(reduction.score.weight)
    reduction.score.weight.data[0, 0] = 100.0
    picked = volume.gather(2, layer.expand(2, 3, 1, 4, 6))[:, :, 0]
    torch.testing.assert_close(reduction(volume), picked)


def test_a_predicted_vector_along_z_starts_as_the_mean(volume):
    torch.testing.assert_close(ZTensor(3, 5)(volume), volume.mean(2))


def test_each_sample_is_weighed_by_the_vector_predicted_from_it(volume):
    reduction = ZTensor(3, 5)
    torch.nn.init.normal_(reduction.weigh.weight)
    for sample, answer in zip(volume, reduction(volume), strict=True):
        vector = reduction.weigh.weight @ sample.mean(dim=(2, 3)).flatten() + reduction.weigh.bias
        torch.testing.assert_close(answer, sum(vector[z] * sample[:, z] for z in range(5)))


def test_a_predicted_vector_along_z_sees_the_order(volume):
    reduction = ZTensor(3, 5)
    torch.nn.init.normal_(reduction.weigh.weight)
    assert not torch.allclose(reduction(volume), reduction(volume.flip(2)), atol=0.01)


def test_the_gradient_of_the_deviation_is_finite_where_all_layers_agree():
    flat = torch.ones(1, 1, 3, 2, 2, requires_grad=True)
    ZStd(1)(flat).sum().backward()
    assert flat.grad is not None and flat.grad.isfinite().all()


def test_what_a_reduction_cannot_do_is_refused_with_what_can():
    with pytest.raises(ValueError, match="unknown reduction of depth 'median'; there are zconv, mean"):
        make_reduction("median", channels=1, depth=5, out_channels=1)
    with pytest.raises(ValueError, match="keeps its 4 channels and cannot make 1; use zconv"):
        make_reduction("mean", channels=4, depth=5, out_channels=1)


@pytest.mark.parametrize(("depth", "padded"), [(1, 16), (13, 16), (16, 16), (17, 32)])
def test_padding_repeats_the_edge_layers_and_tells_where_the_input_lies(depth, padded):
    volume = torch.randn(1, 2, depth, 3, 3)
    result, before = pad_depth(volume, 16)
    assert result.shape == (1, 2, padded, 3, 3)
    assert torch.equal(result[:, :, before : before + depth], volume)
    assert torch.equal(result[:, :, :before], volume[:, :, :1].expand(-1, -1, before, -1, -1))
    after = padded - depth - before
    assert abs(after - before) <= 1, "on both sides alike"
    assert torch.equal(result[:, :, padded - after :], volume[:, :, -1:].expand(-1, -1, after, -1, -1))

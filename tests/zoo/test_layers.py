import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.layers import Conv3d, conv3d


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_bf16_kernel_gradients_are_right_with_fewer_layers_than_the_kernel_has(layers, side, stride):
    torch.manual_seed(0)
    volume = torch.randn(4, 16, layers, 6, 6).bfloat16()
    kernel = (torch.randn(16, 16, side, side, side) / 30).bfloat16()

    def gradient(dtype: torch.dtype) -> Tensor:
        weight = kernel.to(dtype, copy=True).requires_grad_()
        dirt = [torch.full((length,), 1e38) for length in (500, 2_000, 30_000, 100_000) * 4]
        del dirt  # what memory the next allocation finds decides whether the fault shows
        half = side // 2
        result = conv3d(volume.to(dtype), weight, stride=(stride, 1, 1), padding=(half, half, half))
        result.float().square().mean().backward()
        assert weight.grad is not None
        return weight.grad.float()

    exact = gradient(torch.float32)
    torch.testing.assert_close(gradient(torch.bfloat16), exact, atol=0.05 * exact.abs().max().item(), rtol=0.05)


@pytest.mark.parametrize("layers", [1, 2, 3, 7])
def test_the_result_is_that_of_the_library(layers):
    volume, stride = torch.randn(2, 3, layers, 6, 8), (2, 1, 2)
    ours = Conv3d(3, 4, 5, stride=stride)
    theirs = F.conv3d(volume, ours.weight, ours.bias, stride=stride, padding=2)
    torch.testing.assert_close(ours(volume), theirs)


def test_it_is_initialised_and_named_as_in_the_library():
    torch.manual_seed(0)
    ours = Conv3d(3, 4, 3, bias=False)
    torch.manual_seed(0)
    theirs = nn.Conv3d(3, 4, 3, bias=False)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert torch.equal(ours.weight, theirs.weight)

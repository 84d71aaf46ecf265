"""Gradients of 3D convolutions in bf16 on a CPU are right for every depth."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.train.shallow import PadShallowConvolutions


def gradient(x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor, **how) -> torch.Tensor:
    weight = weight.clone().requires_grad_()
    F.conv3d(x, weight, **how).backward(out)
    assert weight.grad is not None
    return weight.grad.double()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_weight_gradients_agree_with_double_precision(depth: int, kernel: int, stride: int, layout) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 16, depth, 6, 6).bfloat16()
    weight = torch.randn(16, 16, kernel, kernel, kernel).bfloat16()
    how = {"stride": stride, "padding": kernel // 2}
    out = torch.randn_like(F.conv3d(x, weight, **how))
    exact = gradient(x.double(), weight.double(), out.double(), **how)
    junk = [torch.full((1 << size,), 1e30) for size in range(6, 20)]  # what is left uninitialised shows
    del junk
    with PadShallowConvolutions():
        found = gradient(x.contiguous(memory_format=layout), weight, out, **how)
    assert float((found - exact).norm() / exact.norm()) < 0.02


@pytest.mark.parametrize(
    ("depth", "kernel", "padding", "dilation"),
    [
        (2, 3, 1, 1),
        (2, (3, 1, 3), (1, 0, 1), 1),
        (2, (4, 3, 2), (2, 0, 1), 1),
        (3, 3, 2, (2, 1, 1)),
        (2, 3, "same", 1),
        (2, (5, 3, 3), "same", (2, 1, 3)),
        (5, 3, "valid", 1),
        (5, 3, 0, 1),
        (1, 3, 1, 1),
    ],
)
def test_results_stay_the_same(depth: int, kernel, padding, dilation) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, depth, 7, 7)
    layer = nn.Conv3d(4, 6, kernel, padding=padding, dilation=dilation)
    plain = layer(x)
    with PadShallowConvolutions():
        torch.testing.assert_close(layer(x), plain)


def test_arguments_by_name_and_other_functions_pass() -> None:
    x, weight = torch.randn(1, 2, 2, 5, 5), torch.randn(3, 2, 3, 3, 3)
    plain = F.conv3d(x, weight, None, 1, 1)
    with PadShallowConvolutions():
        torch.testing.assert_close(F.conv3d(input=x, weight=weight, padding=1), plain)
        torch.testing.assert_close(F.conv2d(x[0], weight[:, :, 0]), F.conv2d(x[0], weight[:, :, 0]))

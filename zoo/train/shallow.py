"""Right gradients for shallow 3D convolutions in bf16 on a CPU.

oneDNN's backward pass for the weights (seen with torch 2.15 on AVX-512 with bf16) leaves parts of the gradient
uninitialised where the input has fewer layers than the kernel and Z is padded: 2 layers under a kernel of 3, 2 to 4
under one of 5. Nothing is raised; the gradient is garbage or infinite. Padding Z before the convolution instead of
inside it gives the same result by another way, and right gradients. The zoo's own blocks do so themselves
(`zoo.models.layers.conv3d`); this covers models made of other libraries' layers and those of other packages.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_SIGNATURE = inspect.Signature(
    [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
        for name, default in (
            ("input", inspect.Parameter.empty),
            ("weight", inspect.Parameter.empty),
            ("bias", None),
            ("stride", 1),
            ("padding", 0),
            ("dilation", 1),
            ("groups", 1),
        )
    ]
)


class PadShallowConvolutions(TorchFunctionMode):
    """Inside `with PadShallowConvolutions():` every conv3d with fewer layers than kernel pads Z by itself."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.conv3d:
            bound = _SIGNATURE.bind(*args, **kwargs)
            bound.apply_defaults()
            return func(*_padded(*bound.args))
        return func(*args, **kwargs)


def _padded(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> tuple[Any, ...]:
    depth, reach = x.shape[-3], _triple(dilation)[0] * (weight.shape[2] - 1) + 1
    if not 1 < depth < reach or padding == "valid":
        return x, weight, bias, stride, padding, dilation, groups
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(_triple(dilation), weight.shape[2:], strict=True)]
        sides = [side for t in reversed(total) for side in (t // 2, t - t // 2)]
        return F.pad(x, sides), weight, bias, stride, 0, dilation, groups
    front, *plane = _triple(padding)
    return F.pad(x, (0, 0, 0, 0, front, front)), weight, bias, stride, (0, *plane), dilation, groups


def _triple(value: Any) -> tuple[int, int, int]:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    first, second, third = values * 3 if len(values) == 1 else values
    return first, second, third

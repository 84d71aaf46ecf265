"""What one tile costs a model, counted without weights: parameters, operations, and memory kept for the backward pass.

Counted on the meta device, where tensors have shapes and no content, so a network of any size costs milliseconds. What
a step really takes in all, gradients, optimiser and a library's workspace with it, is measured (zoo/memory.py).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from zoo.models.base import InkModel


@dataclass(frozen=True)
class Cost:
    """The cost of one batch.

    Attributes:
        parameters: numbers in all parameters, those that are frozen with them.
        trainable: those that training changes.
        flops: of one forward pass, as `FlopCounterMode` has them: convolutions, matrix products and attention, two a
            multiplication and addition; normalisation, activations and interpolation do not count.
        activation_bytes: what a forward pass in training, in fp32, leaves behind for the backward pass: every buffer
            that autograd holds, counted once; parameters, buffers and the input itself are not counted.
    """

    parameters: int
    trainable: int
    flops: int
    activation_bytes: int


@contextmanager
def without_weights() -> Iterator[None]:
    """Models that are built inside lie on the meta device: they hold no weights, whatever their size.

    As `torch.device("meta")` does it, but for `torch.linspace`: libraries read rates of drop path off it as they build.
    """
    with torch.device("meta"), _RealRates():
        yield


def count_cost(model: InkModel, *, tile: int | None = None, batch: int = 1, task: int | None = None) -> Cost:
    """The cost of `batch` tiles of `tile` px (default: the model's) for a model on the meta device.

        with without_weights():
            model = create_model("repmode_base", depth=64, tile=64)
        print(count_cost(model).flops)

    The model's outputs are those of training, with every head. Attention counts as a fused kernel does it, which holds
    no matrix of all pairs. `task`: the one all tiles are of, for a model that needs it.

    Raises:
        ValueError: the model is not on the meta device, or cannot take the tile.
    """
    volume, tasks = _meta_batch(model, tile, batch, task)
    kept, attention = _Kept(model, volume), _FusedAttention()
    with _training(model), FlopCounterMode(display=False) as flops, kept, attention:
        model.heads(volume, tasks)
    parameters = list(model.parameters())
    return Cost(
        parameters=sum(parameter.numel() for parameter in parameters),
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        flops=flops.get_total_flops() + attention.flops,
        activation_bytes=kept.bytes,
    )


def count_step_flops(model: InkModel, *, tile: int | None = None, batch: int = 1, task: int | None = None) -> int:
    """FLOPs of one training step on `batch` tiles: the forward pass as in `Cost.flops`, and the backward pass.

    On the way back every product is counted that autograd asks for: one for the gradient of an input, one for that of a
    weight, each as large as the one on the way forward. So what trains whole costs about three times its forward pass,
    and frozen weights less. What activation checkpointing or a fused kernel computes a second time is not counted, nor
    are loss, augmentation and optimizer. Arguments and errors as for `count_cost`; `weightless` makes the model.
    """
    volume, tasks = _meta_batch(model, tile, batch, task)
    attention = _FusedAttention()
    backward = {torch.ops.aten.convolution_backward: _convolution_backward}
    with _training(model), FlopCounterMode(display=False, custom_mapping=backward) as flops, attention:
        heads = model.heads(volume, tasks)
        answers = [tensor for tensor in [*heads.logits, *heads.aux.values()] if tensor.requires_grad]
        if answers:
            torch.autograd.backward(answers, [torch.empty_like(answer) for answer in answers])
    model.zero_grad(set_to_none=True)
    return flops.get_total_flops() + attention.flops


def weightless(model: InkModel) -> InkModel:
    """A copy on the meta device of a model that has its weights, without copying any of them."""
    kept: dict[int, Any] = {id(buffer): torch.empty_like(buffer, device="meta") for buffer in model.buffers()}
    for parameter in model.parameters():
        kept[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
    return copy.deepcopy(model, kept)


def _meta_batch(model: InkModel, tile: int | None, batch: int, task: int | None) -> tuple[Tensor, Tensor | None]:
    """An input without values, and the tasks of its tiles; ValueError for a model that has weights, or another tile."""
    held = {tensor.device.type for tensor in [*model.parameters(), *model.buffers()]}
    if held - {"meta"}:
        raise ValueError(
            f"{model.card.name} is on {', '.join(sorted(held))}; build it under `with without_weights():` of zoo.cost, "
            "or send it there with .to('meta')"
        )
    side = tile or model.tile
    volume = torch.empty(batch, 1, model.depth, side, side, device="meta")
    model.check_input(volume)
    tasks = None if task is None else torch.full((batch,), task, device="cpu")  # a meta tensor has no values to read
    return volume, tasks


@contextmanager
def _training(model: InkModel) -> Iterator[None]:
    was_training = model.training
    model.train()
    try:
        yield
    finally:
        model.train(was_training)


def _convolution_backward(
    grad: Sequence[int],
    volume: Sequence[int],
    weight: Sequence[int],
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    wanted: Sequence[bool],
    **_: Any,
) -> int:
    """FLOPs of a convolution's backward pass by the shapes; torch's own formula takes groups for one (torch 2.15)."""
    applied = math.prod((volume if transposed else grad)[2:])
    return 2 * volume[0] * applied * math.prod(weight) * sum(wanted[:2])


class _RealRates(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {"device": "cpu"} if func is torch.linspace else {}
        return func(*args, **(given | (kwargs or {})))


class _Kept(torch.autograd.graph.saved_tensors_hooks):
    """Adds up the buffers that autograd keeps inside the block; views of one buffer are that buffer."""

    def __init__(self, model: nn.Module, volume: Tensor):
        own = [*model.parameters(), *model.buffers(), volume]
        self._own = {tensor.untyped_storage()._cdata for tensor in own}
        self._held: dict[int, torch.UntypedStorage] = {}  # held, or another buffer could take its place and its key
        super().__init__(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._own:
            self._held[storage._cdata] = storage
        return tensor

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._held.values())


class _FusedAttention(TorchFunctionMode):
    """Stands in for scaled_dot_product_attention, which on the meta device writes out the matrix of all pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = args[:3]
        pairs = query[..., 0].numel() * key.shape[-2]
        flops = 2 * pairs * (query.shape[-1] + value.shape[-1])
        self.flops += flops
        mask = (args[3:4] or ((kwargs or {}).get("attn_mask"),))[0]
        return _Attention.apply(query, key, value, mask, self, flops)


class _Attention(torch.autograd.Function):
    """Keeps what a fused kernel keeps: its inputs, its output, and a row's log-sum-exp in fp32."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, counter: _FusedAttention, flops: int
    ) -> Tensor:
        out = value.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, mask, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        ctx.counter, ctx.flops = counter, flops
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        ctx.counter.flops += 2 * ctx.flops  # four products where there were two
        given = ctx.saved_tensors[:4]
        wanted = zip(given, ctx.needs_input_grad, strict=False)
        return *(torch.empty_like(tensor) if needs else None for tensor, needs in wanted), None, None

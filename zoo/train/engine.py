"""The engine that runs a training on one device or on many: Lightning Fabric, set up in one place."""

from __future__ import annotations

import functools
import logging
import os
import warnings
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.strategies.strategy import Strategy
from torch import Tensor, nn

from zoo.device import Chosen, Precision, resolve_precision
from zoo.models.base import Heads, InkModel

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from zoo.train.config import TrainConfig

Parallel = Literal["ddp", "fsdp"]
_FABRIC_NAME = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}  # weights stay in fp32 in all of them


def training_precision(asked: Precision, model: nn.Module, device: torch.device) -> Chosen:
    """What to train `model` in: as `resolve_precision`, but fp32 where bf16 gradients could be wrong, with a warning.

    On a CPU, PyTorch's own 3D convolutions leave parts of the kernel's gradient unwritten in bf16 where there are fewer
    layers than the kernel has and Z is padded (`zoo.models.layers.conv3d`, which does not). How many layers reach a
    convolution is not known beforehand, so any of them that pads Z counts.
    """
    precision = resolve_precision(asked, device)
    if precision == "bf16" and device.type == "cpu":
        unsafe = [name for name, module in model.named_modules() if isinstance(module, nn.Conv3d) and _pads_z(module)]
        if unsafe:
            warnings.warn(
                f"trained in fp32, not bf16: {unsafe[0]} is an nn.Conv3d that pads Z, whose bf16 gradients on a CPU "
                "can be wrong; zoo.models.layers.Conv3d can be trusted in bf16",
                stacklevel=2,
            )
            return "fp32"
    return precision


def _pads_z(conv: nn.Conv3d) -> bool:
    padded = conv.padding == "same" if isinstance(conv.padding, str) else conv.padding[0] > 0
    return conv.kernel_size[0] > 1 and padded


def make_fabric(device: torch.device, precision: Chosen, parallel: Parallel = "ddp") -> Fabric:
    """Fabric for one device, or for this process's share of a `torchrun`, launched.

    Under `torchrun` every process takes its own device of `device`'s type. `ddp` holds the whole model on each of them;
    `fsdp` (FSDP2) shards parameters, gradients and the optimizer's state over them, for models that outgrow a device.
    """
    # it announces precision and processes on stderr, which the command does in its own words
    for part in ("rank_zero", "distributed"):
        logging.getLogger(f"lightning_fabric.utilities.{part}").setLevel(logging.WARNING)
    processes = world_size()
    if processes == 1:
        devices = [device.index or 0] if device.type == "cuda" else 1
        return Fabric(accelerator=device.type, devices=devices, precision=_FABRIC_NAME[precision])  # pyright: ignore[reportArgumentType]
    here = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    strategy: Strategy = _AnswersTied()
    if parallel == "fsdp":
        strategy = ModelParallelStrategy(
            parallelize_fn=lambda model, mesh: shard(model, mesh["data_parallel"]),
            data_parallel_size=processes,
            tensor_parallel_size=1,
        )
    fabric = Fabric(
        accelerator=device.type,
        devices=here,
        num_nodes=processes // here,
        precision=_FABRIC_NAME[precision],  # pyright: ignore[reportArgumentType]
        strategy=strategy,
    )
    fabric.launch()
    return fabric


def world_size() -> int:
    """Processes of this run: those that `torchrun` started, else one."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def rank() -> int:
    """Number of this process among those that `torchrun` started; 0 alone."""
    return int(os.environ.get("RANK", 0)) if world_size() > 1 else 0


def check_sharded(config: TrainConfig, precision: Chosen) -> None:
    """Raise ValueError where a run cannot be sharded by FSDP2."""
    if world_size() == 1:
        raise ValueError("fsdp shares a model out over processes, and there is one: start with torchrun, or take ddp")
    if config.ema or config.average_last:
        raise ValueError("ema and average_last need the whole weights on each device; take ddp, or drop them")
    if precision == "fp16":
        raise ValueError("fsdp computes in bf16 or fp32, not in fp16; give --precision, or take ddp")


class _AnswersTied(DDPStrategy):
    """DDP for a model of which the loss does not read all: a loss of an auxiliary head is switched off, or there is
    only one that reads the finest logits.

    DDP waits for a gradient of every parameter. What is not read has one of zero here, as the answers of `heads` are
    tied: a gradient of one of them makes gradients of all. Weight decay alone moves such parameters.
    """

    def setup_module(self, module: nn.Module):
        def tie(_module: nn.Module, _inputs: tuple[Any, ...], answer: Any) -> Any:
            return tied(answer) if isinstance(answer, Heads) else answer

        module.register_forward_hook(tie)
        return super().setup_module(module)


def tied(heads: Heads) -> Heads:
    """The same heads, none of which goes without a gradient as soon as one of them has one."""
    tensors = _Tie.apply(*heads.logits, *heads.aux.values())
    return Heads(list(tensors[: len(heads.logits)]), dict(zip(heads.aux, tensors[len(heads.logits) :], strict=True)))


class _Tie(torch.autograd.Function):
    """The identity; autograd fills gradients that are absent with zeros."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradients


def shard(model: InkModel, mesh: DeviceMesh) -> InkModel:
    """FSDP2: of what `model.shard_units()` names, each device holds one whole at a time; and the rest, which is one
    unit more, while `heads` or `forward` runs. Between these it holds its share alone.

    The rest is freed after the forward pass as well, where torch would keep it until the backward pass: so no pass
    leaves parameters behind that are not those the optimizer holds, for a state that is saved then to stumble over.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    _open_heads()
    for unit in model.shard_units():
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    register_fsdp_forward_method(model, "heads")
    # it warns of heads that are views, which must not be changed in place: nothing does
    warnings.filterwarnings("ignore", rf"FSDP2-wrapped module \({type(model).__name__}\) returned a view")
    return model


@functools.cache
def _open_heads() -> None:
    """Let FSDP look into `Heads` for the tensors whose gradients begin the backward pass; once a process.

    torch 2.15 looks into any dataclass; versions before it looked into what is registered.
    """
    from torch.export import register_dataclass

    register_dataclass(Heads)

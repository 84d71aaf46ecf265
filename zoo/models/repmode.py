"""RepMode (CVPR 2023): a 3D U-Net of MoDE convolutions, whose experts the task mixes into one kernel.

The convolution is in mode_conv.py, the U-Net in repmode_net.py, the cards in repmode_cards.py. Here are the models:
Z to 2D, the widths, and `fuse`, which makes a plain network of one task.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.card import ModelCard
from zoo.models.base import Heads, InkModel
from zoo.models.depth import ZLayer, make_reduction, pad_depth
from zoo.models.layers import Triple
from zoo.models.mode_conv import PAPER_EXPERTS, ExpertSpec, MoDEConv3d, Runs, order_by_task
from zoo.models.repmode_cards import CARDS
from zoo.models.repmode_net import RepModeNet, fuse_net

DECODERS = ("3d", "2d")


class RepMode(InkModel):
    """RepModeNet over the layers, and Z to 2D: behind the 3D decoder, or (`decoder="2d"`) at each skip before a 2D one.

    Layers are edge-padded to a multiple of the network's strides in Z. The padding is cut off before the 3D decoder's
    answer becomes 2D; the 2D decoder's reductions read it.

    `built_as`: the builder's name without `build_`, and the options it was called with; `fuse` passes them on.
    """

    can_checkpoint = True

    def __init__(
        self,
        card: ModelCard,
        *,
        depth: int,
        tile: int,
        classes: int,
        widths: Sequence[int],
        steps: Sequence[Triple],
        stem: Triple | None,
        volume_channels: int,
        tasks: int,
        reduction: str,
        decoder: str,
        experts: Sequence[ExpertSpec] | None,
        built_as: tuple[str, Mapping[str, Any]],
    ):
        super().__init__(card, depth=depth, tile=tile, classes=classes)
        if tasks < 1:
            raise ValueError(f"{card.name}: tasks {tasks} is not possible; 1 or more")
        if decoder not in DECODERS:
            raise ValueError(f"{card.name}: unknown decoder {decoder!r}; there are {', '.join(DECODERS)}")
        self.tasks = tasks
        self.decoder = decoder
        self.built_as = built_as
        self.z_multiple = math.prod(step[0] for step in steps)
        reductions, channels = None, volume_channels if reduction == "zconv" else classes
        if decoder == "2d":
            layers = [-(-depth // self.z_multiple) * self.z_multiple]
            layers += [layers[0] // math.prod(step[0] for step in steps[:level]) for level in range(1, len(widths))]
            reductions, channels = [], classes
            for width, count in zip(widths, layers, strict=True):
                reductions.append(make_reduction(reduction, channels=width, depth=count, out_channels=width))
        self.net = RepModeNet(
            widths=widths,
            steps=steps,
            stem=stem,
            tasks=tasks,
            out_channels=channels,
            experts=PAPER_EXPERTS if experts is None else experts,
            reductions=reductions,
        )
        if decoder == "3d":
            self.reduction = make_reduction(reduction, channels=channels, depth=depth, out_channels=classes)
        else:
            self.reduction = ZLayer(classes, index=0)

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        """(B, 1, D, H, W) -> one head (B, classes, H/out_stride, W/out_stride); aux `gates`, see `gates()`.

        `task`: (B,) long, needed where the model was built for several; a batch may mix them.
        """
        order, runs = order_by_task(task, volume.shape[0], self.tasks)
        logits = _to_2d(self, volume if order is None else volume[order], runs)
        return Heads([logits if order is None else logits[order.argsort()]], {"gates": self.gates()})

    def no_weight_decay(self) -> set[str]:
        """The gates: decay would pull every mixture towards equal shares."""
        return {name for name, _ in self.named_parameters() if name.endswith("gate.weight")}

    def gates(self) -> Tensor:
        """(MoDE layers, tasks, experts): the mean weight of each expert over a layer's output channels.

        Layers in the order of `mode_layers()`, experts in the order of `expert_names()`.
        """
        return torch.stack([layer.gates().mean(dim=2) for layer in self._mode_convs().values()])

    def mode_layers(self) -> list[str]:
        """Names of the MoDE layers, such as `encoder.0.first`, `bottleneck.second`, `decoder.0.first` (the finest)."""
        return list(self._mode_convs())

    def expert_names(self) -> tuple[str, ...]:
        """Names of the experts, such as `conv5`, `avg3`, `conv1x5x5`; under the same in a 2D decoder."""
        return tuple(expert.name for expert in self.net.last.experts)

    def shard_units(self) -> list[nn.Module]:
        """The levels of the U, and what leads from one to the next."""
        net = self.net
        return [*net.encoder, *net.down, net.bottleneck, *net.up, *net.decoder]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the activations inside a level (two MoDE convolutions) again in the backward pass."""
        self.net.grad_checkpointing = enable

    def fuse(self, task: int = 0, *, fold_norm: bool = False) -> FusedRepMode:
        """The plain network that this one is for `task`, in evaluation mode; its weights are copies.

        Args:
            fold_norm: BatchNorm folded into the convolutions too, with the running statistics of now.

        Raises:
            ValueError: a task it was not built for.
        """
        if not 0 <= task < self.tasks:
            raise ValueError(f"{self.card.name}: cannot fuse for task {task}, built for 0 to {self.tasks - 1}")
        return FusedRepMode(self, task, fold_norm=fold_norm).eval()

    def _mode_convs(self) -> dict[str, MoDEConv3d]:
        return {
            name.removesuffix(".conv"): module
            for name, module in self.net.named_modules()
            if isinstance(module, MoDEConv3d)
        }


class FusedRepMode(InkModel):
    """A RepMode network fused for one task: plain convolutions, no gates, no experts. Made by `RepMode.fuse`."""

    def __init__(self, source: RepMode, task: int, *, fold_norm: bool):
        fused = CARDS["repmode_fused"]
        card = replace(source.card, name=fused.name, summary=fused.summary, options=fused.options)
        super().__init__(card, depth=source.depth, tile=source.tile, classes=source.classes)
        self.task = task
        self.decoder = source.decoder
        self.z_multiple = source.z_multiple
        of, options = source.built_as
        self._options = {"of": of, "options": dict(options), "task": task, "fold_norm": fold_norm}
        self.net = fuse_net(source.net, task, fold_norm=fold_norm)
        self.reduction = copy.deepcopy(source.reduction)

    def name_and_options(self) -> tuple[str, dict[str, Any]]:
        """What `create_model` and `save_checkpoint` have to be given for this network."""
        return f"{__name__}:build_repmode_fused", dict(self._options)

    def heads(self, volume: Tensor, task: Tensor | None = None) -> Heads:
        """(B, 1, D, H, W) -> one head (B, classes, H/out_stride, W/out_stride).

        Raises:
            ValueError: `task` names another than the one it was fused for.
        """
        if task is not None and not bool((task == self.task).all()):
            raise ValueError(
                f"fused for task {self.task}; got {task.unique().tolist()}: fuse one network for each task"
            )
        return Heads([_to_2d(self, volume, None)])


def _to_2d(model: RepMode | FusedRepMode, volume: Tensor, runs: Runs | None) -> Tensor:
    padded, before = pad_depth(volume, model.z_multiple)
    if volume.device.type == "cpu":  # oneDNN takes a third of the time for few channels
        padded = padded.contiguous(memory_format=torch.channels_last_3d)
    features = model.net(padded, runs)
    if model.decoder == "3d":
        features = features[:, :, before : before + model.depth]
    return model.reduction(features)


def build_repmode_tiny(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    tasks: int = 1,
    reduction: str = "zconv",
    decoder: str = "3d",
    experts: Sequence[ExpertSpec] | None = None,
) -> RepMode:
    """The variant for two CPU cores; the head is at a quarter of the resolution."""
    return RepMode(
        CARDS["repmode_tiny"],
        depth=depth,
        tile=tile,
        classes=classes,
        widths=(16, 32, 64),
        steps=((2, 2, 2), (2, 2, 2)),
        stem=(1, 4, 4),
        volume_channels=4,
        tasks=tasks,
        reduction=reduction,
        decoder=decoder,
        experts=experts,
        built_as=("repmode_tiny", _options(tasks, reduction, decoder, experts)),
    )


def build_repmode_small(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    tasks: int = 1,
    reduction: str = "zconv",
    decoder: str = "3d",
    experts: Sequence[ExpertSpec] | None = None,
) -> RepMode:
    """Between the two: the head is at half the resolution, four levels."""
    return RepMode(
        CARDS["repmode_small"],
        depth=depth,
        tile=tile,
        classes=classes,
        widths=(16, 32, 64, 128),
        steps=((2, 2, 2), (2, 2, 2), (2, 2, 2)),
        stem=(1, 2, 2),
        volume_channels=4,
        tasks=tasks,
        reduction=reduction,
        decoder=decoder,
        experts=experts,
        built_as=("repmode_small", _options(tasks, reduction, decoder, experts)),
    )


def build_repmode(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    width: int = 32,
    tasks: int = 1,
    reduction: str = "zconv",
    decoder: str = "3d",
    experts: Sequence[ExpertSpec] | None = None,
) -> RepMode:
    """The published network at any width; the levels have 1, 2, 4, 8 and 16 times as many channels."""
    if width < 1:
        raise ValueError(f"repmode: width {width} is not possible; 1 or more (the paper has 32)")
    return RepMode(
        CARDS["repmode_base"],
        depth=depth,
        tile=tile,
        classes=classes,
        widths=(width, 2 * width, 4 * width, 8 * width, 16 * width),
        steps=((2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
        stem=None,
        volume_channels=1,
        tasks=tasks,
        reduction=reduction,
        decoder=decoder,
        experts=experts,
        built_as=("repmode", {"width": width, **_options(tasks, reduction, decoder, experts)}),
    )


def build_repmode_base(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    tasks: int = 1,
    reduction: str = "zconv",
    decoder: str = "3d",
    experts: Sequence[ExpertSpec] | None = None,
) -> RepMode:
    """The published width, 32: 123,715,658 parameters for one task, and the reduction's."""
    return build_repmode(
        depth=depth,
        tile=tile,
        classes=classes,
        width=32,
        tasks=tasks,
        reduction=reduction,
        decoder=decoder,
        experts=experts,
    )


def build_repmode_fused(
    *,
    depth: int,
    tile: int,
    classes: int = 1,
    of: str = "repmode_tiny",
    options: Mapping[str, Any] | None = None,
    task: int = 0,
    fold_norm: bool = False,
) -> FusedRepMode:
    """The plain network of one task that `RepMode.fuse` makes, with fresh weights: for its checkpoint to be read into.

    Raises:
        ValueError: `of` is none of the variants, or `options` are not its options.
    """
    builders: dict[str, Callable[..., RepMode]] = {
        "repmode_tiny": build_repmode_tiny,
        "repmode_small": build_repmode_small,
        "repmode_base": build_repmode_base,
        "repmode": build_repmode,
    }
    if of not in builders:
        raise ValueError(f"repmode_fused: of {of!r} is not possible; one of {', '.join(builders)}")
    try:
        source = builders[of](depth=depth, tile=tile, classes=classes, **(options or {}))
    except TypeError as error:
        raise ValueError(f"repmode_fused: options {dict(options or {})} do not fit {of}: {error}") from error
    return source.fuse(task, fold_norm=fold_norm)


def _options(
    tasks: int, reduction: str, decoder: str, experts: Sequence[ExpertSpec] | None
) -> dict[str, int | str | list[list[int | str]] | None]:
    """A builder's options as JSON can hold them."""
    listed = [list(spec) for spec in experts] if experts is not None else None
    return {"tasks": tasks, "reduction": reduction, "decoder": decoder, "experts": listed}

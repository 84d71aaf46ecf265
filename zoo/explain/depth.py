"""Which layers a prediction rests on, asked in two ways that fail differently.

Gradient: how strongly the ink log-odds of a tile answer to a small change of each voxel, as a share a layer. It sees
every layer at once and costs one backward pass, but says nothing of changes that are not small.

Occlusion: how far the ink probability moves when a layer is replaced. By default it becomes the mean of the layers
beside it: neighbouring layers of CT are alike, so the input still looks like papyrus, and what is lost is what this
layer alone says. With `fill="mean"` it becomes the mean of the tile, and all that it says is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_recipes.fragment import Fragment
from data_recipes.tiles import InputContract
from zoo.degrade import Degrade, degrade
from zoo.memory import one_memory_error
from zoo.models.base import InkModel

Fill = Literal["neighbours", "mean"]

_ON_PAPYRUS = 0.5  # share of a drawn tile that is papyrus at least
_DRAWS = 200  # for each tile, before less papyrus has to do


@dataclass(frozen=True)
class Importance:
    """What one tile says of the layers; averages are over papyrus pixels.

    Attributes:
        gradient: (D,) mean absolute derivative of the summed ink log-odds, as shares that sum to one; all zero where
            the answer does not depend on the input.
        occlusion: (D,) mean absolute change of the ink probability, 0 to 1, without the layer.
        probability: (H, W) ink probability.
        change: (H, W) probability without the layer of the largest occlusion, less `probability`.
    """

    gradient: NDArray[np.float64]
    occlusion: NDArray[np.float64]
    probability: NDArray[np.float32]
    change: NDArray[np.float32]


def layer_importance(
    model: InkModel,
    volume: Tensor,
    mask: Tensor | None = None,
    *,
    fill: Fill = "neighbours",
    task: int | None = None,
    degraded: Degrade | None = None,
    batch_size: int = 8,
) -> Importance:
    """The layers' part in what `model`, in evaluation, makes of one tile.

    Args:
        volume: (1, 1, D, H, W) model input, on the model's device.
        mask: (H, W) bool, the pixels that count; all by default.
        task: for a model that was built for several.
        degraded: as in training (`TrainConfig.degrade`); layers are occluded before it.
        batch_size: occluded copies computed at once.

    Raises:
        ValueError: one layer only, an empty mask, an input the model does not take, an unknown fill.
        zoo.memory.OutOfMemoryError: with what to change.
    """
    depth = volume.shape[2]
    if depth < 2:
        raise ValueError(
            f"{model.card.name} reads one layer, so there is nothing to compare; give a model of two or more"
        )
    if mask is None:
        mask = torch.ones(volume.shape[-2:], dtype=torch.bool, device=volume.device)
    if not mask.any():
        raise ValueError("no pixel of the tile counts: it lies beside the papyrus; choose another")

    def log_odds(stack: Tensor) -> Tensor:
        tasks = None if task is None else torch.full((len(stack),), task, device=stack.device)
        return ink_log_odds(model(degrade(stack, degraded), tasks))

    was_training = model.training
    model.eval()
    try:
        with one_memory_error(f"explaining {model.card.name}", "use a smaller --batch-size"):
            source = volume.detach().clone().requires_grad_()
            answer = log_odds(source)[0]
            slope = None
            if answer.requires_grad:
                (slope,) = torch.autograd.grad(answer[mask].sum(), source, allow_unused=True)
            probability = answer.detach().sigmoid()
            occlusion, change, most = [], torch.zeros_like(probability), -1.0
            with torch.no_grad():
                for first in range(0, depth, batch_size):
                    layers = range(first, min(first + batch_size, depth))
                    for moved in log_odds(occlude(volume, layers, fill)).sigmoid() - probability:
                        occlusion.append(moved[mask].abs().mean().item())
                        if occlusion[-1] > most:
                            change, most = moved, occlusion[-1]
    finally:
        model.train(was_training)
    sizes = torch.zeros(depth) if slope is None else slope[0, 0][:, mask].abs().mean(1).cpu()
    shares = (sizes / sizes.sum().clamp_min(torch.finfo().tiny)).double().numpy()
    return Importance(shares, np.array(occlusion), probability.cpu().numpy(), change.cpu().numpy())


def ink_log_odds(logits: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W): of ink against the background, whose sigmoid is the ink probability."""
    logits = logits.float()
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1:].logsumexp(dim=1) - logits[:, 0]


def occlude(volume: Tensor, layers: range, fill: Fill = "neighbours") -> Tensor:
    """(1, 1, D, H, W) -> (len(layers), 1, D, H, W): a copy for each of `layers`, in which it is replaced.

    Raises:
        ValueError: another `fill`.
    """
    copies = volume.repeat(len(layers), 1, 1, 1, 1)
    for copy, layer in zip(copies, layers, strict=True):
        if fill == "neighbours":
            beside = [index for index in (layer - 1, layer + 1) if 0 <= index < volume.shape[2]]
            copy[0, layer] = volume[0, 0, beside].mean(0)
        elif fill == "mean":
            copy[0, layer] = volume.mean()
        else:
            raise ValueError(f"fill {fill!r} is unknown; allowed: {', '.join(get_args(Fill))}")
    return copies


def stored_layers(contract: InputContract, fragment: Fragment) -> list[int]:
    """The fragment's layer that each layer of the model's input is; numbers outside it repeat its outermost layer."""
    layers = list(range(*contract.window(fragment)))
    return layers if (fragment.direction or "forward") == contract.direction else layers[::-1]


def draw_corners(fragment: Fragment, side: int, count: int, seed: int) -> list[tuple[int, int]]:
    """(y, x) of `count` tiles of `side` px, drawn evenly over the fragment, of which half at least is papyrus.

    Where too little papyrus is left for that, those with the most of it. Reads one tile of the mask a draw.

    Raises:
        ValueError: no papyrus was met, or `count` below 1.
    """
    if count < 1:
        raise ValueError(f"--tiles {count} is not possible; 1 or more")
    rng = np.random.default_rng(seed)
    height, width = fragment.shape
    found: dict[tuple[int, int], float] = {}
    good: set[tuple[int, int]] = set()
    for _ in range(_DRAWS * count):
        y, x = int(rng.integers(max(height - side, 0) + 1)), int(rng.integers(max(width - side, 0) + 1))
        found[y, x] = float(fragment.papyrus[y : y + side, x : x + side].mean())
        if found[y, x] >= _ON_PAPYRUS:
            good.add((y, x))
        if len(good) == count:
            break
    best = sorted((corner for corner in found if found[corner] > 0), key=lambda c: -min(found[c], _ON_PAPYRUS))[:count]
    if not best:
        raise ValueError(f"{fragment.name}: no papyrus was found in {len(found)} tiles; check its mask, or give --tile")
    return best

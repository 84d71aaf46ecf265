"""Weights averaged over a run, kept in place of the last ones: torch's AveragedModel with the two usual means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from zoo.train.config import TrainConfig

_SNAPSHOT_SHARE = 0.01  # of the budget, between two sets of weights of `average_last`


def make_average(model: nn.Module, config: TrainConfig) -> AveragedModel | None:
    """A second set of the weights and buffers, as `ema` or `average_last` asks; None where neither does.

    The moving average of `ema` forgets its start: after n updates it decays by at most (1 + n) / (10 + n). Without
    that, a decay of .999 over 1,000 steps would still hold a third of the weights that the run began with.
    """
    if config.ema:
        decay = config.ema
        return AveragedModel(
            model, multi_avg_fn=_weighing(lambda n: 1 - min(decay, (1 + n) / (10 + n))), use_buffers=True
        )
    if config.average_last:
        return AveragedModel(model, multi_avg_fn=_weighing(lambda n: 1 / (n + 1)), use_buffers=True)
    return None


def _weighing(share: Callable[[int], float]) -> Callable[[Any, Any, Any], None]:
    """An average in which the weights of now have the `share` that belongs to the number of updates before them.

    Not torch's own: on a GPU that fails for whole numbers, such as BatchNorm's count of batches.
    """

    @torch.no_grad()
    def step(averages: Sequence[Tensor], now: Sequence[Tensor], updates: Tensor | int) -> None:
        weight = share(int(updates))
        for average, value in zip(averages, now, strict=True):
            if average.is_floating_point():
                average.lerp_(value, weight)
            else:  # a count of batches
                average.copy_(value)

    return step


def update_average(average: AveragedModel, model: nn.Module, config: TrainConfig, before: float, now: float) -> None:
    """After a step that took the run from the share `before` of its budget to `now`.

    `ema` follows every step. `average_last` = k takes the weights at the k points 1 − i/100 of the budget, i from
    k − 1 down to 0, and weighs them alike.
    """
    if config.ema:
        average.update_parameters(model)
        return
    points = (1 - _SNAPSHOT_SHARE * i for i in range(config.average_last))
    if any(before < point <= min(now, 1.0) for point in points):
        average.update_parameters(model)


def averaged_weights(average: AveragedModel, model: nn.Module) -> dict[str, Tensor]:
    """The averaged weights under the model's own names; the model's where nothing was averaged yet."""
    if int(average.n_averaged) == 0:
        return model.state_dict()
    return average.module.state_dict()

"""The parts of a training step that stand beside the loop: `zoo.bench.measure` times the same ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from zoo.losses import InkLoss
from zoo.models.base import Heads, InkModel

_A_TILE = ("iou", "masks", "presence")  # what of Heads.aux has a row a tile


def micro_batches(size: int, most: int) -> Iterator[tuple[slice, float, bool]]:
    """(rows, their share of the step, whether they are the last) of each part of at most `most` rows."""
    for begin in range(0, size, most):
        end = min(begin + most, size)
        yield slice(begin, end), (end - begin) / size, end == size


def batch_loss(
    loss_of: InkLoss, heads: Heads, label: Tensor, mask: Tensor, each: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch and its parts; with `each`, the mean over its tiles of the loss of each tile alone."""
    if not each:
        return loss_of(heads, label, mask)
    losses, parts = [], []
    for row in range(len(label)):
        one = slice(row, row + 1)
        aux = {key: value[one] for key, value in heads.aux.items() if key in _A_TILE}
        alone = Heads([logits[one] for logits in heads.logits], aux)
        loss, values = loss_of(alone, label[one], mask[one])
        losses.append(loss)
        parts.append(values)
    return torch.stack(losses).mean(), {key: torch.stack([part[key] for part in parts]).mean() for key in parts[0]}


def in_float32(heads: Heads) -> Heads:
    """The heads with everything that was computed in half precision brought to float32."""
    aux = {key: value.float() if value.is_floating_point() else value for key, value in heads.aux.items()}
    return Heads([logits.float() for logits in heads.logits], aux)


def put_back(model: InkModel, buffers: list[Tensor]) -> None:
    """Give a model's buffers the values of `buffers`, in their order."""
    with torch.no_grad():
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)

"""Low-rank adaptation (LoRA, ICLR 2022): a frozen linear layer W and a trained product B·A of rank r beside it.

W x + B A x with A (r, inputs) and B (outputs, r): r·(inputs + outputs) parameters. B starts at zero, so a model answers
as before until it is trained, and B A can be added to W afterwards, which leaves a plain model. There is no extra
factor α/r on the product: the learning rate does its work.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LowRank(nn.Module):
    """The product B·A alone: (…, inputs) -> (…, outputs), to be added to what the frozen layer answers."""

    def __init__(self, inputs: int, outputs: int, rank: int):
        super().__init__()
        if rank < 1:
            raise ValueError(f"LoRA of rank {rank} is not possible; 1 or more (4 is usual)")
        self.a = nn.Parameter(torch.empty(rank, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.a), self.b)

    def product(self) -> Tensor:
        """B·A, (outputs, inputs): what the frozen weight lacks."""
        return self.b @ self.a

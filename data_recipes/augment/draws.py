"""Random parameters of a batch, one of each kind a tile, all of them from one CPU generator."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


class Draws:
    """Draws for the tiles at `rows` of a batch of `of`; every call advances the generator by the whole batch's draws.

    So a process that holds some rows of a batch draws for them what a single process would.
    """

    def __init__(self, generator: Generator, device: torch.device, rows: slice, of: int):
        self.generator, self.device, self.rows, self.of = generator, device, rows, of

    def values(self, *shape: int) -> Tensor:
        """(B, *shape) evenly from 0 to 1, on the CPU."""
        return torch.rand(self.of, *shape, generator=self.generator)[self.rows]

    def uniform(self, low: float, high: float) -> Tensor:
        """(B,) evenly from low to high, on the batch's device."""
        return self.values().mul(high - low).add(low).to(self.device)

    def integers(self, low: int, high: int) -> Tensor:
        """(B,) from low to high − 1, on the CPU."""
        return torch.randint(low, high, (self.of,), generator=self.generator)[self.rows]

    def chance(self, share: float) -> Tensor:
        """(B,) bool, True with the chance `share`, on the CPU."""
        return self.values().lt(share)

    def chosen(self, share: float) -> Tensor:
        """(n,) indices of the tiles that are chosen with the chance `share`, on the batch's device."""
        return self.chance(share).nonzero()[:, 0].to(self.device)

    def partners(self, task: Tensor | None = None) -> Tensor:
        """(B,) for each tile another one of the rows at hand and of its `task` (B,), each taken once; itself only where
        it is alone."""
        order = self.values().argsort()
        partner = torch.empty_like(order)
        of = torch.zeros_like(order) if task is None else task.cpu()[order]
        for number in of.unique():
            group = order[of == number]
            partner[group] = group.roll(1)
        return partner.to(self.device)

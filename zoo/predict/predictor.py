"""From stored intensities to ink probability: one or several checkpoints, each in its own normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_recipes.tiles import InputContract
from zoo.degrade import Degrade
from zoo.degrade import degrade as degraded
from zoo.device import Chosen, autocast, to_channels_last
from zoo.memory import one_memory_error
from zoo.models.base import InkModel, ink_probability

Tta = Literal["none", "flips", "turns", "all"]

MAP_TOLERANCE = 1 / 255
"""How far a faster arithmetic may move a probability: one grey value of the map."""


class Move(NamedTuple):
    """Quarter turns, then a flip of the columns."""

    turns: int
    flip: bool


MOVES: dict[Tta, tuple[Move, ...]] = {
    "none": (Move(0, False),),
    "flips": (Move(0, False), Move(0, True), Move(2, True), Move(2, False)),
    "turns": tuple(Move(turns, False) for turns in range(4)),
    "all": tuple(Move(turns, flip) for turns in range(4) for flip in (False, True)),
}


class _Ready(NamedTuple):
    """A model in its cheapest equal form, and what it is fed with."""

    model: nn.Module
    table: Tensor  # stored value -> model input
    degrade: Degrade | None
    task: int | None


class Predictor:
    """Stored stacks (B, D, side, side) to ink probability (B, side, side), the mean over models and moves.

    RepMode is fused for its task with BatchNorm folded in, weights are laid out channels-last, and a table of all
    stored values does the contract's arithmetic on the device.

    Args:
        models: with the contract of each and the input degradation it was trained under; they may differ in mean and
            deviation, not in what is read. They are changed: evaluation mode, on the device.
        task: for models that were built for several: which of them they answer as.
        tta: test-time augmentation by flips, by quarter turns or by all eight moves.
        compile_models: run them through torch.compile; batches are then filled up to one size.
    """

    def __init__(
        self,
        models: Sequence[tuple[InkModel, InputContract, Degrade | None]],
        *,
        device: torch.device,
        precision: Chosen = "fp32",
        task: int | None = None,
        tta: Tta = "none",
        compile_models: bool = False,
    ):
        self.device, self.moves = device, MOVES[tta]
        self.precision: Chosen = precision
        self.compiled = compile_models
        self.name = models[0][0].card.name
        self._models: list[_Ready] = []
        for model, contract, degrade in models:
            fuse = getattr(model, "fuse", None)
            ready = model.eval() if fuse is None else fuse(task or 0, fold_norm=True)
            to_channels_last(ready.to(device))
            every = np.arange(np.iinfo(contract.stored_dtype).max + 1).astype(contract.stored_dtype)
            self._models.append(
                _Ready(
                    cast(nn.Module, torch.compile(ready)) if compile_models else ready,
                    torch.from_numpy(contract.normalise(every)).to(device),
                    degrade,
                    task if fuse is None else None,
                )
            )

    def __call__(self, stacks: NDArray[np.integer], *, fill: int = 0) -> NDArray[np.float32]:
        """(B, D, side, side) as stored, in the contract's direction -> (B, side, side) probability.

        `fill`: batch size to fill up to with zeros where the models are compiled, for which every new size costs a
        compilation.

        Raises:
            zoo.memory.OutOfMemoryError: with what to change.
        """
        asked = len(stacks)
        if self.compiled and asked < fill:
            stacks = np.concatenate([stacks, np.zeros((fill - asked, *stacks.shape[1:]), stacks.dtype)])
        advice = "use a smaller --batch-size or --tile, or --precision bf16"
        with one_memory_error(f"predicting with {self.name}", advice), torch.inference_mode():
            stored = torch.from_numpy(stacks.astype(np.int32)).to(self.device)
            total = torch.zeros(stacks.shape[0], *stacks.shape[2:], device=self.device)
            for ready in self._models:
                volume = degraded(ready.table[stored][:, None], ready.degrade)
                for move in self.moves:
                    total += self._one(ready, volume, move)
            total /= len(self._models) * len(self.moves)
            return total[:asked].cpu().numpy()

    def _one(self, ready: _Ready, volume: Tensor, move: Move) -> Tensor:
        turned = torch.rot90(volume, move.turns, (3, 4))
        turned = (turned.flip(4) if move.flip else turned).contiguous(memory_format=torch.channels_last_3d)
        tasks = None if ready.task is None else torch.full((len(volume),), ready.task, device=self.device)
        with autocast(self.precision, self.device):
            logits = ready.model(turned, tasks)
        found = ink_probability(logits.float())
        return torch.rot90(found.flip(2) if move.flip else found, -move.turns, (1, 2))

    def fastest_precision(self, stacks: NDArray[np.integer], candidate: Chosen) -> tuple[Chosen, float]:
        """`candidate` where it moves no probability of these tiles by more than a grey value, else fp32; and how far.

        The predictor computes in the answer from then on.
        """
        self.precision = "fp32"
        if candidate == "fp32":
            return "fp32", 0.0
        exact = self(stacks)
        self.precision = candidate
        moved = float(np.abs(self(stacks) - exact).max())
        if moved > MAP_TOLERANCE:
            self.precision = "fp32"
        return self.precision, moved

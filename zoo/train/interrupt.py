"""Training that was asked to stop, and how all of its processes agree."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning_fabric import Fabric


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; what was trained so far lies in `checkpoint`, and can be gone on from."""

    def __init__(self, step: int, checkpoint: Path):
        super().__init__(
            f"interrupted after step {step}: the model as it was then is in {checkpoint}; "
            "the same command with --resume goes on"
        )
        self.step = step
        self.checkpoint = checkpoint


def same_everywhere(fabric: Fabric, number: int) -> bool:
    """Whether all processes of the run have the same number."""
    if fabric.world_size == 1:
        return True
    gathered = fabric.all_gather(torch.tensor(number, device=fabric.device))
    return bool((gathered == number).all())  # pyright: ignore[reportAttributeAccessIssue]


def any_process(fabric: Fabric, *flags: bool) -> tuple[bool, ...]:
    """Each flag, set where any process of the run has set it; so all of them do the same."""
    if fabric.world_size == 1:
        return flags
    counted = fabric.all_reduce(torch.tensor(flags, dtype=torch.int64, device=fabric.device), reduce_op="sum")
    return tuple(bool(count) for count in counted)  # pyright: ignore[reportGeneralTypeIssues]

"""How much each expert of a RepMode model counts: the gates, averaged over a layer's output channels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from rich.text import Text

from zoo.models.base import InkModel
from zoo.models.repmode import FusedRepMode, RepMode


@dataclass(frozen=True)
class Gates:
    """Attributes:
    model: its registered name.
    layers: names of the MoDE layers, from the input on.
    experts: names of the experts.
    values: (layers, tasks, experts) float; over the experts they sum to one.
    """

    model: str
    layers: tuple[str, ...]
    experts: tuple[str, ...]
    values: NDArray[np.float64]

    @property
    def tasks(self) -> int:
        return self.values.shape[1]

    def records(self) -> Iterator[dict[str, Any]]:
        """One a layer, task and expert: what the CSV holds."""
        for (layer, task, expert), value in np.ndenumerate(self.values):
            yield {"layer": self.layers[layer], "task": task, "expert": self.experts[expert], "gate": float(value)}


def read_gates(model: InkModel) -> Gates:
    """The gates of a model with experts.

    Raises:
        ValueError: it has none, or they were fused into single kernels.
    """
    if isinstance(model, FusedRepMode):
        raise ValueError(
            f"{model.card.name}: its experts are fused into single kernels and cannot be told apart any more; "
            "give the checkpoint that it was fused from"
        )
    if not isinstance(model, RepMode):
        raise ValueError(f"{model.card.name} has no experts; expected a checkpoint of a repmode model")
    with torch.no_grad():
        values = model.gates().double().cpu().numpy()
    names = model.mode_layers()
    order = sorted(range(len(names)), key=lambda index: _place(names[index], index))
    return Gates(model.card.name, tuple(names[index] for index in order), model.expert_names(), values[order])


def _place(layer: str, index: int) -> tuple[int, int, int]:
    """Where a layer lies on the way through the network: the decoder counts its levels from the finest, met last."""
    part, _, rest = layer.partition(".")
    if part == "decoder":
        return 1, -int(rest.partition(".")[0]), index
    return (2 if part == "last" else 0), 0, index


def gates_table(gates: Gates) -> Table:
    """A row a layer and task; the largest of each in bold; at last the means over the layers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    if gates.tasks > 1:
        table.add_column("task", justify="right")
    for expert in gates.experts:
        table.add_column(expert, justify="right", no_wrap=True)
    for name, of_tasks in [*zip(gates.layers, gates.values, strict=True), ("mean", gates.values.mean(axis=0))]:
        if name == "mean":
            table.add_section()
        for task, values in enumerate(of_tasks):
            cells = [Text(f"{v:.3f}", style="bold" if v == values.max() else "") for v in values]
            table.add_row(*([Text(name if not task else "")] + ([Text(str(task))] if gates.tasks > 1 else []) + cells))
    return table

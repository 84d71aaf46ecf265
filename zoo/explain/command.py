"""The bodies of `python -m zoo.explain experts | depth`: a table on the terminal, and the files of it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from data_recipes.files import check_writable, whole_file
from data_recipes.fragment import Fragment, open_fragments
from zoo.checkpoint import Loaded, load_checkpoint
from zoo.device import resolve_device
from zoo.explain.depth import Importance, draw_corners, layer_importance, stored_layers
from zoo.explain.experts import gates_table, read_gates
from zoo.explain.figures import DepthFigure, draw_depth, draw_gates

if TYPE_CHECKING:
    from zoo.explain.__main__ import DepthOptions, ExpertsOptions

_BAR = 12  # characters of the longest bar


def experts_command(options: ExpertsOptions) -> None:
    """As `ExpertsOptions` says. A user's mistake raises ValueError or FileNotFoundError."""
    model = load_checkpoint(options.checkpoint).model
    gates = read_gates(model)
    out = _folder(options.out, options.checkpoint)
    console = Console(highlight=False)
    console.print(Text(f"{gates.model}: mean gate of each expert, by layer{' and task' if gates.tasks > 1 else ''}"))
    console.print(gates_table(gates))
    equal = 1 / len(gates.experts)
    console.print(Text(f"alike is {equal:.3f}; furthest from it is {np.abs(gates.values - equal).max():.3f}", "dim"))
    _write_csv(out / "experts.csv", gates.records())
    facts = {"checkpoint": str(options.checkpoint), "model": gates.model, "gates": list(gates.records())}
    _write_json(out / "experts.json", facts)
    draw_gates(gates, out / "experts.png")
    _say_where(out, "experts")


def depth_command(options: DepthOptions) -> None:
    """As `DepthOptions` says. A user's mistake raises ValueError or FileNotFoundError."""
    device = resolve_device(options.device)
    if options.batch_size < 1:
        raise ValueError(f"--batch-size {options.batch_size} is not possible; 1 or more")
    loaded = load_checkpoint(options.checkpoint, device)
    contract = loaded.contract
    fragment = _one_fragment(options.data)
    contract.check(fragment)
    given = [_corner(text, fragment) for text in options.tile]
    out = _folder(options.out, options.checkpoint)
    corners = given or draw_corners(fragment, contract.tile, options.tiles, options.seed)
    seen = []
    for corner in track(corners, "tiles", console=Console(stderr=True), transient=True):
        volume, mask = _read(loaded, fragment, corner, device)
        seen.append(
            layer_importance(
                loaded.model,
                volume,
                mask,
                fill=options.fill,
                task=options.task,
                degraded=loaded.degrade,
                batch_size=options.batch_size,
            )
        )
    rows = _rows(seen, stored_layers(contract, fragment))
    what = (
        f"{loaded.name} on {fragment.name}, {len(corners)} tile{'s' if len(corners) > 1 else ''} of {contract.tile} px"
    )
    filled = "the mean of the layers beside it" if options.fill == "neighbours" else "the mean of the tile"
    console = Console(highlight=False)
    console.print(Text(what))
    console.print(_depth_table(rows))
    note = (
        "stored: the fragment's layer. gradient: share of the ink log-odds' sensitivity. occlusion: mean change of the "
        f"ink probability when the layer becomes {filled}"
    )
    note += "; over tiles: 10th to 90th percentile." if len(corners) > 1 else "."
    console.print(Text(note, "dim"))
    facts = {
        "checkpoint": str(options.checkpoint),
        "model": loaded.name,
        "fragment": fragment.name,
        "data": options.data,
        "tile": contract.tile,
        "corners": corners,
        "fill": options.fill,
        "task": options.task,
        "seed": options.seed,
        "layers": rows,
        "gradient_by_tile": [one.gradient.tolist() for one in seen],
        "occlusion_by_tile": [one.occlusion.tolist() for one in seen],
    }
    _write_json(out / "depth.json", facts)
    _write_csv(out / "depth.csv", rows)
    shown = max(range(len(seen)), key=lambda index: float(np.abs(seen[index].change).mean()))
    strongest = int(seen[shown].occlusion.argmax())
    picture = contract.read(fragment, *corners[shown])[strongest]
    centre = None if "center_layer" in fragment.unknown else fragment.center_layer
    draw_depth(
        DepthFigure(what, filled, rows, centre, corners[shown], picture, rows[strongest]["stored"], seen[shown]),
        out / "depth.png",
    )
    _say_where(out, "depth")


def _one_fragment(data: str) -> Fragment:
    found = open_fragments([data])
    if len(found) > 1:
        raise ValueError(f"{data} holds {len(found)} fragments ({', '.join(found)}); give the path of one")
    (fragment,) = found.values()
    return fragment


def _corner(text: str, fragment: Fragment) -> tuple[int, int]:
    try:
        y, x = (int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--tile {text}: expected Y,X, the top-left corner in px, such as 512,640") from None
    height, width = fragment.shape
    if not (0 <= y < height and 0 <= x < width):
        raise ValueError(f"--tile {text} lies outside {fragment.name}, which has {height} rows and {width} columns")
    return y, x


def _read(
    loaded: Loaded, fragment: Fragment, corner: tuple[int, int], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(1, 1, D, side, side) model input and (side, side) bool papyrus; beside the fragment there is none."""
    (y, x), side = corner, loaded.contract.tile
    stack = loaded.contract.normalise(loaded.contract.read(fragment, y, x))
    papyrus = np.zeros((side, side), bool)
    inside = fragment.papyrus[y : y + side, x : x + side]
    papyrus[: inside.shape[0], : inside.shape[1]] = inside
    if not papyrus.any():
        raise ValueError(f"{fragment.name}: the tile at {y},{x} has no papyrus; choose another --tile")
    volume = torch.from_numpy(np.ascontiguousarray(stack))[None, None]
    return volume.to(device), torch.from_numpy(papyrus).to(device)


def _rows(seen: Sequence[Importance], stored: Sequence[int]) -> list[dict[str, Any]]:
    """One a layer of the model's input: the mean over tiles, and their 10th and 90th percentile."""

    def spread(name: str, values: NDArray[np.float64]) -> dict[str, list[float]]:
        low, high = np.percentile(values, [10, 90], axis=0)
        return {name: values.mean(0).tolist(), f"{name}_p10": low.tolist(), f"{name}_p90": high.tolist()}

    columns = spread("gradient", np.stack([one.gradient for one in seen]))
    columns |= spread("occlusion", np.stack([one.occlusion for one in seen]))
    return [
        {"layer": layer, "stored": stored[layer]} | {name: values[layer] for name, values in columns.items()}
        for layer in range(len(stored))
    ]


def _depth_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    many = any(row["occlusion_p10"] != row["occlusion_p90"] for row in rows)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("layer", "stored", "gradient", "", "occlusion", *(("over tiles",) if many else ()), ""):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    most = {name: max(row[name] for row in rows) for name in ("gradient", "occlusion")}
    for row in rows:
        bars = {name: "█" * round(_BAR * row[name] / most[name]) if most[name] else "" for name in most}
        cells = [str(row["layer"]), str(row["stored"]), f"{row['gradient']:.3f}", bars["gradient"]]
        cells += [f"{row['occlusion']:.4f}"]
        cells += [f"{row['occlusion_p10']:.4f}–{row['occlusion_p90']:.4f}"] if many else []
        table.add_row(*cells, bars["occlusion"])
    return table


def _folder(out: Path | None, checkpoint: Path) -> Path:
    folder = out or checkpoint.parent / "explain"
    check_writable(folder)
    return folder


def _write_csv(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    records = list(records)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    with whole_file(path) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")


def _write_json(path: Path, facts: Mapping[str, Any]) -> None:
    with whole_file(path) as partial:
        partial.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _say_where(out: Path, stem: str) -> None:
    for suffix in ("png", "csv", "json"):
        print(out / f"{stem}.{suffix}")

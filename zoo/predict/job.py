"""What a process needs to predict its part of a map: fragment, models and plan, made ready from what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from data_recipes.formats.arrays import MaskPlane
from data_recipes.formats.companions import open_plane
from data_recipes.fragment import Fragment, open_fragments
from data_recipes.regions import Rect, whole
from data_recipes.resample import resampled
from data_recipes.tiles import InputContract
from zoo.checkpoint import Loaded, load_checkpoint
from zoo.degrade import Degrade
from zoo.device import resolve_precision
from zoo.models.base import InkModel
from zoo.predict.plan import CheckpointRef, Plan, digest
from zoo.predict.predictor import Predictor
from zoo.predict.store import MapStore
from zoo.predict.work import Timings, predict_shards, probe


@dataclass
class Job:
    """One map on one device: `run` makes the shards that it is given."""

    plan: Plan
    fragment: Fragment
    predictor: Predictor

    def run(
        self,
        store: MapStore,
        shards: Sequence[int],
        on_progress: Callable[[float], None] = lambda pixels: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Timings:
        """Errors as `predict_shards`."""
        fill = self.plan.batch_size
        return predict_shards(
            store,
            self.fragment,
            self.plan.contract,
            lambda stacks: self.predictor(stacks, fill=fill),
            shards,
            on_progress=on_progress,
            stop=stop,
        )

    def choose_precision(self) -> tuple[Plan, float]:
        """The plan with bf16 where that is native and moves no pixel by more than a grey value; how far it moves them.

        Looked at on tiles from the middle of the papyrus, the same ones for every process.
        """
        candidate = resolve_precision("auto", self.predictor.device)
        stacks = probe(self.fragment, self.plan.contract, self.plan.grid()) if candidate != "fp32" else None
        chosen, moved = ("fp32", 0.0) if stacks is None else self.predictor.fastest_precision(stacks, candidate)
        self.predictor.precision = chosen
        self.plan = self.plan.model_copy(update={"precision": chosen})
        return self.plan, moved


def open_segment(path: str, mask: str | None) -> Fragment:
    """The one fragment at `path`, with the papyrus mask at `mask` in place of its own.

    Raises:
        FileNotFoundError, ValueError: not there, several fragments, no layers, a mask of another shape.
    """
    found = open_fragments([path])
    if len(found) > 1:
        raise ValueError(f"{path} holds {len(found)} fragments ({', '.join(found)}); give the path of one")
    (fragment,) = found.values()
    if fragment.volume is None:
        raise ValueError(f"{fragment.name}: has labels but no layers; give the folder that holds the layers too")
    if mask is not None:
        if not Path(mask).exists():
            raise FileNotFoundError(f"--mask {mask}: no such file")
        plane = open_plane(Path(mask))
        if plane.shape != fragment.shape:
            told = "×".join(map(str, plane.shape))
            raise ValueError(f"--mask {mask}: is {told} px, the layers are {'×'.join(map(str, fragment.shape))}")
        fragment.papyrus = MaskPlane(plane)
        fragment.sources = {**fragment.sources, "mask": Path(mask)}  # so that its content is in the fragment's stamp
    return fragment


def whole_shards(region: Sequence[Rect], shape: tuple[int, int], side: int) -> tuple[Rect, ...]:
    """Rectangles of a map of `shape` px, each grown to the shards of `side` px that it touches.

    Raises:
        ValueError: one that leaves the map.
    """
    height, width = shape
    for rect in region:
        if rect.intersect(whole(shape)) != rect:
            raise ValueError(
                f"--region {','.join(map(str, rect))}: leaves the map of {height}×{width} px; expected Y1 ≤ {height} "
                f"and X1 ≤ {width}, from 0 on"
            )
    grown = (
        Rect(y0 // side * side, -(-y1 // side) * side, x0 // side * side, -(-x1 // side) * side)
        for y0, y1, x0, x1 in region
    )
    return tuple(sorted({cut for rect in grown if (cut := rect.intersect(whole(shape)))}))


def load_models(paths: Sequence[str], device: torch.device) -> list[tuple[CheckpointRef, Loaded]]:
    """The checkpoints of a map.

    Raises:
        FileNotFoundError, ValueError: as `load_checkpoint`; or they do not read the same.
    """
    loaded = []
    for path in paths:
        one = load_checkpoint(path, device)
        how = one.contract.model_dump(mode="json", include={"clip", "divisor", "mean", "std"})
        where = str(Path(path).resolve())
        ref = CheckpointRef(path=where, sha256=digest(Path(path)), model=one.name, seen=one.seen, normalisation=how)
        loaded.append((ref, one))
    first = _reading(loaded[0][1])
    for ref, other in loaded[1:]:
        if differ := [key for key, value in _reading(other).items() if value != first[key]]:
            raise ValueError(
                f"{ref.path}: reads something else than {loaded[0][0].path} ({', '.join(differ)}); "
                "only checkpoints that read the same can be averaged"
            )
    return loaded


def _reading(loaded: Loaded) -> dict[str, object]:
    """What decides which voxels are read, and for which task; the rest is each model's own."""
    keys = {"stored_dtype", "to_uint8", "source_to_uint8", "depth", "offset", "direction", "voxel_um"}
    tasks = {"tasks": loaded.config.get("tasks"), "number of tasks": loaded.options.get("tasks") or 1}
    return {**loaded.contract.model_dump(include=keys), **tasks}


def make_job(
    plan: Plan,
    fragment: Fragment,
    models: Sequence[tuple[InkModel, InputContract, Degrade | None]],
    device: torch.device,
) -> Job:
    """A job from what is open: the models, each with the contract and the input degradation that it was trained under.

    Raises:
        ValueError: a tile that a model cannot take; a task that it was not built for.
    """
    bits = plan.contract.model_dump(include={"stored_dtype", "to_uint8"})
    for model, _, _ in models:
        model.check_input(torch.empty(1, 1, model.depth, plan.tile, plan.tile, device="meta"))
    predictor = Predictor(
        [(model, contract.model_copy(update=bits), degrade) for model, contract, degrade in models],
        device=device,
        precision=plan.precision,
        task=plan.task,
        tta=plan.tta,
        compile_models=plan.compiled,
    )
    return Job(plan, fragment, predictor)


def as_trained(loaded: Sequence[Loaded]) -> list[tuple[InkModel, InputContract, Degrade | None]]:
    """Checkpoints as `make_job` takes them."""
    return [(one.model, one.contract, one.degrade) for one in loaded]


def reopen(plan: Plan, device: torch.device) -> Job:
    """The job of a plan in another process, everything opened anew.

    Raises:
        FileNotFoundError, ValueError: what the plan names is not there, or no longer what it was.
    """
    fragment = open_segment(plan.path, plan.mask)
    if plan.resampled != 1:
        fragment = resampled(fragment, plan.resampled)
    loaded = load_models([ref.path for ref in plan.checkpoints], device)
    for was, (now, _) in zip(plan.checkpoints, loaded, strict=True):
        if was.sha256 != now.sha256:
            raise ValueError(f"{was.path}: has changed since the map was begun")
    return make_job(plan, fragment, as_trained([one for _, one in loaded]), device)

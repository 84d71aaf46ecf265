"""From a store whose shards are all there to the map under its own name, in the forms that were asked for."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zoo
from zoo.ink_map import open_ink_map, stored_form
from zoo.predict.export import write_png, write_preview, write_submission, write_tiff
from zoo.predict.plan import Plan
from zoo.predict.pyramid import add_levels, ome_attributes
from zoo.predict.store import PARTIAL, MapStore

FORMS = {".zarr": "zarr", ".tif": "tif", ".tiff": "tif", ".png": "png"}
DEFAULT_THRESHOLD = 0.5


def form_of(out: Path) -> str:
    """zarr, tif or png, by the suffix.

    Raises:
        ValueError: another suffix.
    """
    if out.suffix.lower() not in FORMS:
        raise ValueError(f"{out}: the map's name must end in .zarr, .tif or .png, got {out.suffix or 'no suffix'!r}")
    return FORMS[out.suffix.lower()]


def partial_of(out: Path) -> Path:
    """Where the map lies while it is being made."""
    return out.with_name(out.name + PARTIAL)


def provenance(plan: Plan, threshold: float | None) -> dict[str, Any]:
    """What a map says of itself: all that decided it, and by which versions it was made. No date, so that the same work
    gives the same bytes."""
    import torch

    said = plan.model_dump(mode="json", exclude={"shape", "shard", "chunk", "zarr_format"})
    return {
        **said,
        "size_px": list(plan.shape),  # not `shape`: tifffile would take the text for its own
        "threshold": threshold,
        "versions": {"inkzoo": zoo.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def paths_of(out: Path, also: Sequence[str]) -> dict[str, Path]:
    """Form -> path of all that a map is written to, the preview first and OUT itself last."""
    main = form_of(out)
    others = {form: out.with_name(out.stem + SUFFIXES[form]) for form in dict.fromkeys(also) if form != main}
    return {"preview": out.with_name(out.stem + SUFFIXES["preview"]), **others, main: out}


def check_threshold(threshold: float | None) -> None:
    """Raise ValueError where it is no probability."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"--threshold {threshold} is not possible; a probability from 0 to 1")


def finish(store: MapStore, out: Path, *, also: Sequence[str], threshold: float | None) -> list[Path]:
    """Add levels and attributes, write every form, and give the map its name; the paths that were written.

    OUT itself appears last. Interrupted, the same call does it again.

    Raises:
        ValueError: shards are missing; a threshold that is no probability.
        FileExistsError: OUT is there by now, made by another process.
        OSError: something cannot be written; the store is kept.
    """
    import zarr

    check_threshold(threshold)
    paths, plan = paths_of(out, also), store.plan
    with store.finishing():
        if out.exists():
            raise FileExistsError(f"{out}: exists already")
        if missing := store.missing():
            raise ValueError(f"{store.path}: {len(missing)} of {len(store.grid)} shards are missing")
        group = zarr.open_group(store.path, mode="r+")
        count = add_levels(group, plan)
        about = provenance(plan, threshold)
        group.attrs.update({**ome_attributes(plan, count), **stored_form(about)})
        _write_forms(paths, [group[str(level)] for level in range(count)], about)
        if form_of(out) == "zarr":
            store.settle(out)
        else:
            store.remove()
    return list(paths.values())


def add_forms(out: Path, *, also: Sequence[str], threshold: float | None) -> list[Path]:
    """Write further forms of the finished map OUT.zarr, and store a threshold with it; the paths that were written.

    Raises:
        ValueError: not a finished map of this project's; nothing to do; a threshold that is no probability.
    """
    import zarr

    check_threshold(threshold)
    if not also and threshold is None:
        raise ValueError(f"{out} is finished: nothing to put together; --also and --threshold add to it")
    kept = open_ink_map(out).provenance
    if form_of(out) != "zarr" or not kept:
        raise ValueError(f"{out}: other forms are made of a finished OUT.zarr of `python -m zoo.predict` alone")
    group = zarr.open_group(out, mode="r+")
    about = {**kept, "threshold": kept.get("threshold") if threshold is None else threshold}
    group.attrs.update(stored_form(about))
    paths = {form: path for form, path in paths_of(out, also).items() if form in also}
    _write_forms(paths, [group["0"]], about)
    return list(paths.values())


def _write_forms(paths: Mapping[str, Path], levels: list[Any], about: Mapping[str, Any]) -> None:
    cut = DEFAULT_THRESHOLD if about["threshold"] is None else about["threshold"]
    for form, path in paths.items():
        for draft in path.parent.glob(f".{path.name}.*.partial"):  # of a process that was killed
            draft.unlink()
        if form == "preview":
            write_preview(path, levels, about)
        elif form == "tif":
            write_tiff(path, levels[0], about)
        elif form == "png":
            write_png(path, levels[0], about)
        elif form == "mask":
            write_png(path, levels[0], {**about, "threshold": cut}, cut)
        elif form == "csv":
            write_submission(path, levels[0], about["fragment"], cut)


SUFFIXES = {
    "preview": "_preview.png",
    "tif": ".tif",
    "png": ".png",
    "mask": "_mask.png",
    "csv": ".csv",
}
